//! Matches between two photos.

use super::drawing::{Shape, color};
use super::keypoints::line_width;
use super::{DrawParams, Drawing};
use crate::error::Result;
use crate::features::KeyPoint;
use crate::matching::{DMatch, Homography};
use crate::pixels::PixelView;

/// A photo and its keypoints.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The photo.
    pub photo: PixelView<'a>,
    /// Its keypoints.
    pub keypoints: &'a [KeyPoint],
}

/// Pixels between the photos.
const GAP: usize = 8;

const INLIER: usize = 2;
const OUTLIER: usize = 4;
const FRAME: usize = 3;

/// Draws two photos side by side with lines between the keypoints that match: inliers on top, in green, outliers in red. `inliers`
/// has one element for each match; without it, all are outliers. The first photo's frame, as the homography maps it, is
/// drawn in the second.
///
/// # Errors
/// [`Error::InvalidParam`](crate::Error::InvalidParam) for a scale at which the drawing is too large.
pub fn draw_matches(
    one: Side<'_>,
    other: Side<'_>,
    matches: &[DMatch],
    inliers: &[bool],
    homography: Option<&Homography>,
    params: &DrawParams,
) -> Result<Drawing> {
    let (width, height) =
        (one.photo.width() + other.photo.width(), one.photo.height().max(other.photo.height()));
    let scale = params.scale_of(width, height)?;
    let left = scale * one.photo.width() + GAP;
    let mut drawing = Drawing::new(left + scale * other.photo.width(), scale * height)?;
    drawing.put(one.photo, (0, 0), scale);
    drawing.put(other.photo, (left, 0), scale);
    let line = line_width(&drawing);
    let scale = scale as f32;
    let place = |(x, y): (f32, f32), left: f32| (left + scale * (x + 0.5), scale * (y + 0.5));
    for inlier in [false, true] {
        for (i, found) in matches.iter().enumerate() {
            let ends = one
                .keypoints
                .get(found.query_index())
                .zip(other.keypoints.get(found.train_index()));
            let Some((from, to)) =
                ends.filter(|_| inliers.get(i).copied().unwrap_or(false) == inlier)
            else {
                continue;
            };
            let (from, to) = (place((from.x, from.y), 0.0), place((to.x, to.y), left as f32));
            let color = color(if inlier { INLIER } else { OUTLIER });
            for (x, y) in [from, to] {
                drawing.stroke(Shape::Circle { x, y, radius: 3.0 * line }, color, line);
            }
            drawing.stroke(
                Shape::Line { from, to },
                color,
                if inlier { line / 2.0 } else { line / 3.0 },
            );
        }
    }
    if let Some(homography) = homography {
        let (right, bottom) = (one.photo.width() as f64 - 0.5, one.photo.height() as f64 - 0.5);
        let corners = [(-0.5, -0.5), (right, -0.5), (right, bottom), (-0.5, bottom)];
        let corners: Option<Vec<_>> =
            corners.into_iter().map(|corner| homography.apply(corner)).collect();
        if let Some(corners) = corners {
            let places: Vec<_> =
                corners.iter().map(|&(x, y)| place((x as f32, y as f32), left as f32)).collect();
            for i in 0..4 {
                let (from, to) = (places[i], places[(i + 1) % 4]);
                drawing.stroke(Shape::Line { from, to }, color(FRAME), 1.5 * line);
            }
        }
    }
    Ok(drawing)
}
