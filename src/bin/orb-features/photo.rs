//! Photos that are named one by one, and results to read.

use std::path::Path;

use orb_features::prelude::*;
use orb_features::results::ResultReader;

use crate::exit::Exit;
use crate::place::Place;
use crate::s3::S3Args;

/// A connection to S3, if one of the places is there.
pub fn connect<'a>(
    args: &S3Args,
    places: impl IntoIterator<Item = &'a Place>,
) -> Result<Option<S3>, Exit> {
    let places: Vec<&Place> = places.into_iter().collect();
    let nowhere = Place::Folder("".into());
    let in_s3 = places.iter().copied().find(|place| place.is_s3());
    args.check(in_s3.unwrap_or(&nowhere), &nowhere, None)?;
    if args.listing.is_some() {
        return Err(Exit::usage("--listing has no part in this command"));
    }
    Ok(in_s3.map(|_| args.connect()).transpose()?)
}

/// A result to read, and a connection to S3 if it or its photos are there.
pub fn result_and_photos(args: &S3Args, place: &Place) -> Result<(ResultReader, Option<S3>), Exit> {
    if place.is_s3() {
        let s3 = connect(args, [place])?;
        return Ok((result_at(place, s3.as_ref())?, s3));
    }
    let result = result_at(place, None)?;
    // Judged by the first photo: usually, all come from one place.
    let listed = result.images()?.next().transpose()?.and_then(|image| image.path);
    let first = match listed {
        Some(path) => Some(path),
        None => result.photos()?.next().transpose()?.map(|photo| photo.path),
    };
    let photos = first.and_then(|path| Place::parse(path.into()).ok());
    let s3 = connect(args, photos.as_ref())?;
    Ok((result, s3))
}

/// Opens the result at a place.
pub fn result_at(place: &Place, s3: Option<&S3>) -> Result<ResultReader> {
    match (place, s3) {
        (Place::Folder(path), _) => ResultReader::open(path),
        (Place::S3(location), Some(s3)) => ResultReader::open_in_s3(s3, location.clone()),
        (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
    }
}

/// A warning about a result that may grow or vanish.
pub fn warn_if_incomplete(result: &ResultReader) {
    if !result.is_complete() {
        eprintln!("warning: {} has no _SUCCESS: it may not be whole", result.uri());
    }
}

/// The images at a place: one, or all of a folder or prefix.
pub fn images_at(
    place: &Place,
    s3: Option<&S3>,
) -> Result<Box<dyn Iterator<Item = Result<ListedImage>> + Send>> {
    match (place, s3) {
        (Place::Folder(path), _) => Ok(Box::new(FsSource::new(path).open()?)),
        (Place::S3(location), Some(s3)) => {
            let images = S3Source::new(s3, location.clone())?.open()?;
            Ok(Box::new(images.map(|image| image.map(Into::into))))
        }
        (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
    }
}

/// Reads the one image at a place.
pub fn read(place: &Place, s3: Option<&S3>) -> Result<ImageObject> {
    let name = place.to_string();
    let no_photo =
        |reason: &str| Error::NoInput { uri: name.as_str().into(), reason: reason.into() };
    if matches!(place, Place::Folder(path) if path.is_dir()) {
        return Err(no_photo("it is a folder: one photo is due"));
    }
    let image =
        images_at(place, s3)?.next().ok_or_else(|| no_photo("there is no such object"))??;
    if image.uri != name {
        return Err(no_photo("it is a prefix: one photo is due"));
    }
    image.read()
}

/// Reads a photo that a result names; `None` if that is no longer possible.
pub fn read_again(path: &str, s3: Option<&S3>) -> Option<Vec<u8>> {
    let place = Place::parse(path.into()).ok()?;
    if place.is_s3() && s3.is_none() {
        return None;
    }
    read(&place, s3).ok().map(|object| object.bytes.to_vec())
}

/// Decodes a photo in colour, turned as `decode` says.
pub fn pixels(object: &ImageObject, decode: &DecodeParams) -> Result<Pixels> {
    let mut decoder = orb_features::decode::Decoder::new(decode.clone());
    Ok(decoder.decode_object(object, PixelSpec::new(PixelFormat::Rgb))?.pixels)
}

/// The features of a photo.
pub fn features(object: &ImageObject, decode: &DecodeParams, orb: &Orb) -> Result<Features> {
    let gray = orb_features::decode::Decoder::new(decode.clone()).decode(object)?;
    let found = orb.detect_and_compute(gray.view(), None);
    found.map_err(|e| Error::Extract { uri: object.uri.as_str().into(), source: Box::new(e) })
}

/// A text for a terminal: names may hold anything.
pub fn shown(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(shown).collect()
}

/// Refuses a file to write that is one of those that are read.
pub fn check_output(output: &Path, inputs: &[&Path]) -> Result<(), Exit> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let Some(at) = real(output) else { return Ok(()) };
    if inputs.iter().any(|input| real(input).as_ref() == Some(&at)) {
        let why = "is read by this command, and not written over";
        return Err(Exit::usage(&format!("{} {why}", output.display())));
    }
    Ok(())
}

/// The local path of a place; empty for S3.
pub fn path_of(place: &Place) -> &Path {
    match place {
        Place::Folder(path) => path,
        Place::S3(_) => Path::new(""),
    }
}

/// Writes a file that this command makes.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Exit> {
    std::fs::write(path, content).map_err(|e| Error::write_to(path.display().to_string(), e).into())
}
