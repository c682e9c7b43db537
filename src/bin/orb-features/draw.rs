//! The command `draw`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::draw::{DrawParams, Drawing, draw_keypoints};
use orb_features::prelude::*;
use orb_features::results::ResultReader;

use crate::choices::names;
use crate::exit::{Exit, print};
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
    /// Draw the keypoints of this result, by the photos' paths in it, instead of extracting them; options of the extractor
    /// have no part then.
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
        let inputs: Vec<&Path> = self.photos.iter().map(photo::path_of).collect();
        let several = self.photos.len() > 1 || self.output.is_dir();
        let outputs: Vec<PathBuf> = if several {
            let named = self.photos.iter().enumerate();
            named.map(|(i, place)| self.output.join(name_of(place, i))).collect()
        } else {
            format_of(&self.output)?;
            vec![self.output.clone()]
        };
        for path in &outputs {
            photo::check_output(path, &inputs)?;
        }
        let orb = self.orb.params(OpenCvBuild::default()).build()?;
        let mut decode = DecodeParams::default().with_gray_mode(self.gray);
        if several && format_of(&self.output).is_ok() && !self.output.is_dir() {
            let name = self.output.display();
            return Err(Exit::usage(&format!(
                "-o {name}: of several photos, the name of a folder is due"
            )));
        }
        if several {
            std::fs::create_dir_all(&self.output)
                .map_err(|e| Error::write_to(self.output.display().to_string(), e))?;
        }
        let mut known = match &self.result {
            Some(place) => {
                let result = photo::result_at(place, s3.as_ref())?;
                // Turned as for the result.
                decode = result.decode()?.unwrap_or_default();
                Some(self.known(&result)?)
            }
            None => None,
        };
        let params =
            self.scale.map_or(DrawParams::default(), |n| DrawParams::default().with_scale(n));
        let mut failed = None;
        for (i, (place, path)) in self.photos.iter().zip(&outputs).enumerate() {
            let drawn = photo::read(place, s3.as_ref()).and_then(|object| {
                let keypoints = match &mut known {
                    Some(known) => {
                        known[i].take().ok_or_else(|| no_row(self.result.as_ref(), place))?
                    }
                    None => photo::features(&object, &decode, &orb)?.keypoints,
                };
                let pixels = photo::pixels(&object, &decode)?;
                let drawing = draw_keypoints(pixels.view(), &keypoints, &params);
                let drawing = drawing.map_err(|e| match e {
                    Error::Shape(why) => {
                        Error::write_to(path.display().to_string(), format!("{place}: {why}"))
                    }
                    e => e,
                })?;
                Ok((drawing, keypoints.len()))
            });
            match drawn {
                Ok((drawing, n)) => {
                    write(path, &drawing)?;
                    let (path, place) = (path.display().to_string(), place.to_string());
                    let (path, place) = (photo::shown(&path), photo::shown(&place));
                    print(&format!("{path}: {n} keypoints of {place}"))?;
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

    /// The keypoints of each photo in a result; `None` for a photo that the result does not have.
    fn known(&self, result: &ResultReader) -> Result<Vec<Option<Vec<KeyPoint>>>> {
        let mut known = vec![None; self.photos.len()];
        let mut keep = |path: &str, keypoints: &[KeyPoint]| {
            for (place, known) in self.photos.iter().zip(&mut known) {
                if is_named(place, path) {
                    *known = Some(keypoints.to_vec());
                }
            }
        };
        for photo in result.photos()? {
            let photo = photo?;
            if photo.vectors.rows() > 0 && photo.keypoints.is_empty() {
                return Err(Error::Table {
                    uri: result.uri().into(),
                    source: "its vectors belong to no keypoints".into(),
                });
            }
            keep(&photo.path, &photo.keypoints);
        }
        // Photos without features have no row, and no keypoints.
        for image in result.images()? {
            let image = image?;
            if let (Some(path), Some(0)) = (&image.path, image.n_vectors) {
                keep(path, &[]);
            }
        }
        Ok(known)
    }
}

/// Whether a result's path is that of a photo, however it is written.
fn is_named(place: &Place, path: &str) -> bool {
    let Place::Folder(photo) = place else { return place.to_string() == path };
    let path = Path::new(path);
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    photo == path
        || (photo.file_name() == path.file_name()
            && real(photo).is_some_and(|photo| real(path) == Some(photo)))
}

/// The error for a photo that a result does not have.
fn no_row(result: Option<&Place>, photo: &Place) -> Error {
    let uri = result.map(Place::to_string).unwrap_or_default();
    let why = format!("it has no features of {photo}: the photo is not in it, or has failed");
    Error::Table { uri: uri.into(), source: why.into() }
}

/// A name for the drawing of the photo with this number.
fn name_of(place: &Place, number: usize) -> String {
    let text = place.to_string();
    let stem = Path::new(&text).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    format!("{number:03}-{}.png", stem.unwrap_or_default())
}

/// The ending of a file's name, in lower case.
fn ending_of(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase()
}

/// A file's format by its name.
#[derive(Clone, Copy)]
pub enum Format {
    Svg,
    Png,
}

pub fn format_of(path: &Path) -> Result<Format, Exit> {
    match &*ending_of(path) {
        "svg" => Ok(Format::Svg),
        "png" => Ok(Format::Png),
        _ => Err(Exit::usage(&format!(
            "{}: a name that ends in .png or .svg is due",
            path.display()
        ))),
    }
}

/// Writes a drawing in the format that the file's name asks for.
pub fn write(path: &Path, drawing: &Drawing) -> Result<(), Exit> {
    match format_of(path)? {
        Format::Svg => photo::write(path, drawing.to_svg().as_bytes()),
        Format::Png => photo::write(path, &drawing.to_png()?),
    }
}
