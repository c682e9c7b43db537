//! The command `draw`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::draw::{DrawParams, Drawing, draw_keypoints};
use orb_features::prelude::*;

use crate::choices::names;
use crate::exit::{Exit, show};
use crate::orb::OrbArgs;
use crate::photo;
use crate::place::Place;
use crate::s3::S3Args;

#[derive(Args)]
pub struct Draw {
    /// Photos: files, or s3://bucket/key.
    #[arg(value_name = "PHOTO", required = true, value_parser = OsStringValueParser::new().try_map(Place::parse))]
    photos: Vec<Place>,
    /// File to write, .png or .svg; of several photos the folder for files.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Draw the keypoints of this result, by the photos' paths in it, instead of extracting them.
    #[arg(long, value_name = "RESULT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    result: Option<Place>,
    /// Pixels for each pixel of the photo [default: as many as make a small photo some 800 wide].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    scale: Option<u32>,
    /// How colours become grey, see extract.
    #[arg(long, default_value_t, value_parser = names(GrayMode::ALL, GrayMode::as_str))]
    gray: GrayMode,

    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    orb: OrbArgs,
}

impl Draw {
    pub fn run(&self) -> Result<(), Exit> {
        let s3 = photo::connect(&self.s3, self.photos.iter().chain(&self.result))?;
        let orb = self.orb.params(OpenCvBuild::default()).build()?;
        let decode = DecodeParams::default().with_gray_mode(self.gray);
        let several = self.photos.len() > 1 || self.output.is_dir();
        if several {
            std::fs::create_dir_all(&self.output)
                .map_err(|e| Error::write_to(self.output.display().to_string(), e))?;
        }
        let mut known = match &self.result {
            Some(result) => Some(self.known(result, s3.as_ref())?),
            None => None,
        };
        let params =
            self.scale.map_or(DrawParams::default(), |n| DrawParams::default().with_scale(n));
        let mut failed = None;
        for (i, place) in self.photos.iter().enumerate() {
            let path =
                if several { self.output.join(name_of(place, i)) } else { self.output.clone() };
            let drawn = photo::read(place, s3.as_ref()).and_then(|object| {
                let keypoints = match &mut known {
                    Some(known) => known[i].take().ok_or_else(|| Error::NoInput {
                        uri: place.to_string().into(),
                        reason: "the result has no row of this photo".into(),
                    })?,
                    None => photo::features(&object, &decode, &orb)?.keypoints,
                };
                let pixels = photo::pixels(&object, &decode)?;
                Ok((draw_keypoints(pixels.view(), &keypoints, &params)?, keypoints.len()))
            });
            match drawn {
                Ok((drawing, n)) => {
                    write(&path, &drawing)?;
                    show(&format!("{}: {n} keypoints of {place}", path.display()))?;
                }
                Err(error) if several => {
                    // The others are drawn all the same.
                    let exit = Exit::from(error);
                    eprintln!("error: {}", exit.message);
                    failed = Some(exit.status);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match failed {
            Some(status) => Err(Exit { message: "not all photos were drawn".to_owned(), status }),
            None => Ok(()),
        }
    }

    /// The keypoints of the photos in a result, of those that are there.
    fn known(&self, result: &Place, s3: Option<&S3>) -> Result<Vec<Option<Vec<KeyPoint>>>> {
        let names: Vec<String> = self.photos.iter().map(Place::to_string).collect();
        let mut known = vec![None; names.len()];
        let result = photo::result_at(result, s3)?;
        let mut keep = |path: &str, keypoints: Vec<KeyPoint>| {
            for (name, known) in names.iter().zip(&mut known) {
                if name == path {
                    *known = Some(keypoints.clone());
                }
            }
        };
        for photo in result.photos()? {
            let photo = photo?;
            keep(&photo.path, photo.keypoints);
        }
        // Photos without features have no row, and no keypoints.
        for image in result.images()? {
            let image = image?;
            if let (Some(path), Some(0)) = (&image.path, image.n_vectors) {
                keep(path, Vec::new());
            }
        }
        Ok(known)
    }
}

/// A name for the drawing of the photo with this number.
fn name_of(place: &Place, number: usize) -> String {
    let text = place.to_string();
    let stem = Path::new(&text).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    format!("{number:03}-{}.png", stem.unwrap_or_default())
}

/// Writes a drawing in the format that the file's name asks for.
pub fn write(path: &Path, drawing: &Drawing) -> Result<(), Exit> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match &*ending.to_lowercase() {
        "svg" => photo::write(path, drawing.to_svg().as_bytes()),
        "png" => photo::write(path, &drawing.to_png()?),
        _ => Err(Exit::usage(&format!(
            "{}: a name that ends in .png or .svg is due",
            path.display()
        ))),
    }
}
