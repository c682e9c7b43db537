//! Keypoints on a photo.

use super::drawing::{Shape, color};
use super::{DrawParams, Drawing};
use crate::error::Result;
use crate::features::KeyPoint;
use crate::pixels::PixelView;

/// Draws keypoints as `cv2.drawKeypoints` does with `DRAW_RICH_KEYPOINTS`: a circle as large as the described patch, with a
/// line in the direction of its angle; a colour for each octave.
///
/// # Errors
/// [`Error::InvalidParam`](crate::Error::InvalidParam) for a scale at which the drawing is too large.
pub fn draw_keypoints(
    photo: PixelView<'_>,
    keypoints: &[KeyPoint],
    params: &DrawParams,
) -> Result<Drawing> {
    let scale = params.scale_of(photo.width(), photo.height())?;
    let mut drawing = Drawing::new(scale * photo.width(), scale * photo.height())?;
    drawing.put(photo, (0, 0), scale);
    add_keypoints(&mut drawing, keypoints, (0.0, 0.0), scale as f32);
    Ok(drawing)
}

/// Draws keypoints of a photo that is at a place.
pub(super) fn add_keypoints(
    drawing: &mut Drawing,
    keypoints: &[KeyPoint],
    (left, top): (f32, f32),
    scale: f32,
) {
    let width = line_width(drawing);
    for keypoint in keypoints {
        let (x, y) = (left + scale * (keypoint.x + 0.5), top + scale * (keypoint.y + 0.5));
        let radius = scale * keypoint.size / 2.0;
        let color = color(keypoint.octave.rem_euclid(256) as usize);
        drawing.stroke(Shape::Circle { x, y, radius }, color, width);
        // OpenCV's mark for no angle.
        if keypoint.angle >= 0.0 {
            let (sin, cos) = keypoint.angle.to_radians().sin_cos();
            let to = (x + radius * cos, y + radius * sin);
            drawing.stroke(Shape::Line { from: (x, y), to }, color, width);
        }
    }
}

/// A width that is seen on a drawing of this size.
pub(super) fn line_width(drawing: &Drawing) -> f32 {
    let (width, height) = drawing.size();
    (width.max(height) as f32 / 500.0).clamp(1.5, 4.0)
}
