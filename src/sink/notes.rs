//! Compares the notes in the footers of a result with those of files to append.

use crate::pca::{Centering, Difference, Origin, PcaModel};

/// Prefix of every note's key.
pub(crate) const PREFIX: &str = "orb_features.";

/// Fails with a list of the differences between the notes of a result and those of files to append: parameters of
/// the extractor and the decoder, or the fit. A note that is missing on either side is not compared.
///
/// Both sides are `(key, value)` pairs as in the footers.
pub(super) fn compare<'a>(
    there: impl IntoIterator<Item = (&'a str, &'a str)>,
    added: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    let (there, added) = (Notes::read(there), Notes::read(added));
    let mut differences: Vec<String> = Vec::new();
    if let (Some(there), Some(added)) = (there.origin(&added), added.origin(&there)) {
        let say = |Difference { name, first, second, .. }| {
            format!("{name}: there {first}, in this job {second}")
        };
        differences.extend(there.differences(&added).into_iter().map(say));
    }
    if let (Some(there), Some(added)) = (there.pca, added.pca) {
        differences.extend(difference_of_fits(there, added));
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

#[derive(Default)]
struct Notes<'a> {
    orb: Option<&'a str>,
    decode: Option<&'a str>,
    pca: Option<&'a str>,
}

impl<'a> Notes<'a> {
    fn read(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut notes = Self::default();
        for (key, value) in pairs {
            match key.strip_prefix(PREFIX) {
                Some("orb" | "extractor") => notes.orb = Some(value),
                Some("decode") => notes.decode = Some(value),
                Some("pca") => notes.pca = Some(value),
                _ => {}
            }
        }
        notes
    }

    /// The origin, read from those notes that both sides have.
    fn origin(&self, others: &Self) -> Option<Origin> {
        let note = |own: Option<&'a str>, other: Option<&str>| own.filter(|_| other.is_some());
        let (orb, decode) = (note(self.orb, others.orb), note(self.decode, others.decode));
        (orb.or(decode)).map(|_| Origin::of_notes(orb.unwrap_or("null"), decode.unwrap_or("null")))
    }
}

/// Describes how two fits differ in their effect on a descriptor; `None` if they do not.
fn difference_of_fits(there: &str, added: &str) -> Option<String> {
    if there == added {
        return None;
    }
    let read = |note: &str| serde_json::from_str::<PcaModel>(note).ok();
    let (Some(there), Some(added)) = (read(there), read(added)) else {
        return Some("pca: another model".to_owned());
    };
    if there.mean() != added.mean() || there.components() != added.components() {
        let (there, added) = (there.n_rows(), added.n_rows());
        return Some(format!(
            "pca: another fit, there on {there} rows, in this job on {added} (--model projects onto an older one)"
        ));
    }
    let (there, added) = (there.centering(), added.centering());
    let name = |c| if c == Centering::Mean { "mean" } else { "none" };
    let (there_is, added_is) = (name(there), name(added));
    (there != added).then(|| format!("center: there {there_is}, in this job {added_is}"))
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::decode::{DecodeParams, GrayMode};
    use crate::features::FeatureExtractor;
    use crate::orb::OrbParams;
    use crate::pca::{Moments, PcaParams, describe_decode};

    fn model(seed: usize) -> PcaModel {
        model_of(seed, 2)
    }

    fn model_of(seed: usize, n_components: usize) -> PcaModel {
        let mut moments = Moments::new(4);
        let rows = Array2::from_shape_fn((9, 4), |(i, j)| ((i + seed) * (i + 3 * j) % 97) as u8);
        moments.push_rows(rows.view()).unwrap();
        moments.fit(&PcaParams::new(n_components)).unwrap()
    }

    /// The notes of a job.
    fn notes(orb: &OrbParams, model: Option<&PcaModel>) -> Vec<(String, String)> {
        let mut notes = vec![
            ("version".to_owned(), "0".to_owned()),
            ("orb".to_owned(), orb.clone().build().unwrap().describe()),
            ("decode".to_owned(), describe_decode(&DecodeParams::default())),
        ];
        notes.extend(model.map(|m| ("pca".to_owned(), serde_json::to_string(m).unwrap())));
        notes.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect()
    }

    fn compared(there: &[(String, String)], added: &[(String, String)]) -> Result<(), String> {
        fn pairs(notes: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
            notes.iter().map(|(key, value)| (key.as_str(), value.as_str()))
        }
        compare(pairs(there), pairs(added))
    }

    #[test]
    fn other_parameters_and_other_fits_are_named() {
        let (orb, first) = (OrbParams::default(), model(1));
        let there = notes(&orb, Some(&first));
        assert_eq!(compared(&there, &there), Ok(()));
        let other = orb.clone().with_fast_threshold(5).with_n_levels(2);
        assert_eq!(
            compared(&there, &notes(&other, Some(&first))).unwrap_err(),
            "fast_threshold: there 20, in this job 5; n_levels: there 8, in this job 2"
        );
        let why = compared(&there, &notes(&orb, Some(&model(2)))).unwrap_err();
        assert!(why.contains("another fit, there on 9 rows"), "{why}");
        let spark = first.clone().with_centering(Centering::None);
        let why = compared(&there, &notes(&orb, Some(&spark))).unwrap_err();
        assert_eq!(why, "center: there mean, in this job none");
        // The same fit, with and without a note of its origin.
        let decode = DecodeParams::default();
        let noted = first.with_origin(Origin::new(&orb.clone().build().unwrap(), &decode));
        assert_eq!(compared(&there, &notes(&orb, Some(&noted))), Ok(()));
        let mut luma = notes(&orb, Some(&noted));
        luma[2].1 = describe_decode(&DecodeParams::default().with_gray_mode(GrayMode::Luma));
        assert_eq!(compared(&there, &luma).unwrap_err(), "gray_mode: there bgr, in this job luma");
        // The same mean, but other components.
        let fewer = notes(&orb, Some(&model_of(1, 1)));
        assert!(compared(&there, &fewer).unwrap_err().contains("another fit"));
        let broken = [("orb_features.pca".to_owned(), "{}".to_owned())];
        assert!(compared(&there, &broken).unwrap_err().contains("another model"));
    }

    #[test]
    fn a_note_that_is_missing_cannot_differ() {
        let there = notes(&OrbParams::default(), None);
        assert_eq!(compared(&there, &[]), Ok(()));
        assert_eq!(compared(&[], &there), Ok(()));
        let other = notes(&OrbParams::default().with_wta_k(4), Some(&model(1)));
        assert!(compared(&there, &other[..2]).unwrap_err().starts_with("wta_k"));
        assert_eq!(compared(&there[2..], &other), Ok(()));
    }
}
