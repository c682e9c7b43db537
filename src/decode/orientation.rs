//! The orientation that a camera wrote into a JPEG.

use image::metadata::Orientation;

/// Reads the orientation from the EXIF segment of a JPEG; upright if there is none.
pub(super) fn of_jpeg(bytes: &[u8]) -> Orientation {
    exif_segment(bytes).and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// Finds the first APP1 segment that holds EXIF data, before the image data starts.
fn exif_segment(bytes: &[u8]) -> Option<&[u8]> {
    const START_OF_SCAN: u8 = 0xda;
    const APP1: u8 = 0xe1;
    let mut rest = bytes.get(2..)?;
    loop {
        let &[0xff, marker, ..] = rest else { return None };
        if marker == 0xff {
            // A fill byte.
            rest = &rest[1..];
            continue;
        }
        if marker == START_OF_SCAN {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let segment = rest.get(4..2 + length)?;
        if marker == APP1
            && let Some(exif) = segment.strip_prefix(b"Exif\0\0")
        {
            return Some(exif);
        }
        rest = &rest[2 + length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_ends_where_it_says() {
        // A TIFF of one entry: the orientation, a short.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut jpeg = vec![0xff, 0xd8, 0xff, 0xff, 0xe1, 0, 2 + exif.len() as u8];
        jpeg.extend(exif);
        assert_eq!(of_jpeg(&jpeg), Orientation::Rotate90);
        assert_eq!(of_jpeg(&jpeg[..jpeg.len() - 1]), Orientation::NoTransforms);
    }
}
