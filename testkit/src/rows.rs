//! Single rows, for tests that make or compare rows one by one.

use std::sync::Arc;

use orb_features::features::{DESCRIPTOR_LEN, Descriptor};
use orb_features::prelude::*;

/// One row of ORB.
#[derive(Clone, Debug, PartialEq)]
pub struct OrbRow {
    pub meta: Arc<ImageMeta>,
    pub index: u32,
    pub keypoint: KeyPoint,
    pub descriptor: Descriptor,
}

/// An image with these keypoints and descriptors.
pub fn image(
    meta: Arc<ImageMeta>,
    rows: impl IntoIterator<Item = (KeyPoint, Descriptor)>,
) -> ImageFeatures {
    let (keypoints, descriptors) = rows.into_iter().unzip();
    let mut features = Features::default();
    (features.keypoints, features.descriptors) = (keypoints, descriptors);
    ImageFeatures::new(meta, features)
}

/// A batch of whole images of ORB.
pub fn batch<'a>(images: impl IntoIterator<Item = &'a ImageFeatures>) -> RowBatch {
    let mut batch = RowBatch::new(VectorFormat::u8(DESCRIPTOR_LEN).with_keypoints());
    images.into_iter().for_each(|image| batch.push(image).unwrap());
    batch
}

/// The rows of a batch of ORB.
pub fn rows(batch: &RowBatch) -> Vec<OrbRow> {
    let descriptors = batch.vectors().as_u8().unwrap().as_chunks().0;
    let row = |row: orb_features::rows::Row<'_>| OrbRow {
        meta: Arc::clone(row.meta),
        index: row.index,
        keypoint: *row.keypoint.unwrap(),
        descriptor: descriptors[row.place],
    };
    batch.rows().map(row).collect()
}
