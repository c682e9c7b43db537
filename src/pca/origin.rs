//! The extractor and decoder that a model was fitted on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decode::{DecodeParams, JPEG_DECODER};
use crate::features::FeatureExtractor;

/// The extractor and the decoder that make descriptors, with their parameters.
///
/// A model records the origin of the descriptors of its fit, and a result the origin of its own descriptors. Scores of
/// descriptors made with other parameters have no meaning, so
/// [`Pipeline::with_model`](crate::pipeline::Pipeline::with_model) and the Parquet sink's append compare the origins.
///
/// # Examples
/// ```
/// use orb_features::pca::Origin;
/// use orb_features::prelude::*;
///
/// let decode = DecodeParams::default();
/// let fitted = Origin::new(&OrbParams::default().with_fast_threshold(5).build()?, &decode);
/// let job = Origin::new(&OrbParams::default().build()?, &decode);
/// assert_eq!(fitted.differences(&job)[0].to_string(), "fast_threshold: 5 and 20");
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    orb: Value,
    decode: Value,
}

/// A parameter whose values in two jobs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The parameter's name.
    pub name: String,
    /// The first job's value, as text; `none` if that job has no such parameter.
    pub first: String,
    /// The second job's value, likewise.
    pub second: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} and {}", self.name, self.first, self.second)
    }
}

/// Limits: they decide which images fail, and change no descriptor.
const LIMITS: [&str; 3] = ["max_keypoints", "max_side", "max_alloc"];

impl Origin {
    /// Takes the descriptions of an extractor and a decoder.
    #[must_use]
    pub fn new<E: FeatureExtractor>(extractor: &E, decode: &DecodeParams) -> Self {
        Self::of_notes(&extractor.describe(), &describe_decode(decode))
    }

    /// Reads the notes `orb` and `decode` of a result. A note that is not JSON is kept as plain text.
    pub(crate) fn of_notes(orb: &str, decode: &str) -> Self {
        let read = |note: &str| serde_json::from_str(note).unwrap_or_else(|_| note.into());
        Self { orb: read(orb), decode: read(decode) }
    }

    /// The parameters that differ, with their names: those of the extractor, including the OpenCV build to match, the
    /// grey mode, the EXIF orientation and the JPEG decoder. Limits are not compared.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        compare("extractor", &self.orb, &other.orb, &mut found);
        compare("decoder", &self.decode, &other.decode, &mut found);
        found
    }
}

/// The note `decode` of a result.
pub(crate) fn describe_decode(params: &DecodeParams) -> String {
    serde_json::json!({ "jpeg": JPEG_DECODER, "params": params }).to_string()
}

fn compare(name: &str, first: &Value, second: &Value, found: &mut Vec<Difference>) {
    if first == second || LIMITS.contains(&name) {
        return;
    }
    if let (Value::Object(first), Value::Object(second)) = (first, second) {
        let only_second = second.keys().filter(|key| !first.contains_key(*key));
        for key in first.keys().chain(only_second) {
            let value = |of: &serde_json::Map<String, Value>| of.get(key).cloned();
            compare(
                key,
                &value(first).unwrap_or_default(),
                &value(second).unwrap_or_default(),
                found,
            );
        }
        return;
    }
    let (name, first, second) = (name.to_owned(), show(first), show(second));
    found.push(Difference { name, first, second });
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        // Shown as float32, like the parameters: 1.2, not 1.2000000476837158.
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(wide) if f64::from(wide as f32) == wide => (wide as f32).to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{ExifOrientation, GrayMode};
    use crate::orb::{OrbParams, ScoreType};

    fn origin(orb: &OrbParams, decode: &DecodeParams) -> Origin {
        Origin::new(&orb.clone().build().unwrap(), decode)
    }

    #[test]
    fn every_parameter_that_changes_a_descriptor_counts() {
        let (orb, decode) = (OrbParams::default(), DecodeParams::default());
        let job = origin(&orb, &decode);
        assert_eq!(job.differences(&job), []);
        for (params, says) in [
            (orb.clone().with_n_features(31), "n_features: 30 and 31"),
            (orb.clone().with_scale_factor(1.5), "scale_factor: 1.2 and 1.5"),
            (orb.clone().with_n_levels(7), "n_levels: 8 and 7"),
            (orb.clone().with_edge_threshold(3), "edge_threshold: 31 and 3"),
            (orb.clone().with_first_level(1), "first_level: 0 and 1"),
            (orb.clone().with_wta_k(4), "wta_k: 2 and 4"),
            (orb.clone().with_score_type(ScoreType::Fast), "score_type: harris and fast"),
            (orb.clone().with_patch_size(5), "patch_size: 31 and 5"),
            (orb.clone().with_fast_threshold(0), "fast_threshold: 20 and 0"),
        ] {
            let found = job.differences(&origin(&params, &decode));
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [says]);
        }
        for build in crate::orb::OpenCvBuild::ALL {
            let found = job.differences(&origin(&orb.clone().with_compat(build), &decode));
            assert_eq!(found.len(), usize::from(build != orb.compat()), "{found:?}");
        }
        for (params, says) in [
            (decode.clone().with_gray_mode(GrayMode::Luma), "gray_mode: bgr and luma"),
            (
                decode.clone().with_exif_orientation(ExifOrientation::Ignore),
                "exif_orientation: apply and ignore",
            ),
        ] {
            assert_eq!(job.differences(&origin(&orb, &params))[0].to_string(), says);
        }
        let limits = decode.with_max_side(9).with_max_alloc(9);
        assert_eq!(job.differences(&origin(&orb, &limits)), []);
    }

    #[test]
    fn other_decoders_extractors_and_fields_are_named() {
        let ours = Origin::of_notes(r#"{"backend":"native","params":{"a":1}}"#, r#"{"jpeg":"x"}"#);
        let says = |orb, decode| {
            let found = ours.differences(&Origin::of_notes(orb, decode));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let same = r#"{"backend":"native","params":{"a":1}}"#;
        assert_eq!(says(same, r#"{"jpeg":"y"}"#), ["jpeg: x and y"]);
        let more = r#"{"backend":"opencv 4.6.0","params":{"a":1,"b":[2]}}"#;
        assert_eq!(
            says(more, r#"{"jpeg":"x"}"#),
            ["backend: native and opencv 4.6.0", "b: none and [2]"]
        );
        assert_eq!(says("a text", r#"{"jpeg":"x"}"#).len(), 1);
        let close = r#"{"backend":"native","params":{"a":0.123456789012}}"#;
        assert_eq!(says(close, r#"{"jpeg":"x"}"#), ["a: 1 and 0.123456789012"]);
    }
}
