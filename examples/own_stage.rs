//! Custom stages between the crate's own: any iterator adaptor can be a stage.
//!
//! Here, one stage keeps the strongest keypoint of each image, and another one counts the rows by label.
//!
//! ```sh
//! cargo run --release --example own_stage
//! ```

use std::collections::BTreeMap;

use orb_features::prelude::*;
use testkit::photos;

/// Keeps the keypoint with the highest response of each image, and passes errors through.
struct Strongest<I>(I);

impl<I: Iterator<Item = Result<ImageFeatures>>> Iterator for Strongest<I> {
    type Item = Result<ImageFeatures>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(|mut image| {
            let response = |i: &usize| image.keypoints[*i].response;
            let best =
                (0..image.keypoints.len()).max_by(|a, b| response(a).total_cmp(&response(b)));
            image.retain(|i| Some(i) == best);
            image
        }))
    }
}

/// Makes [`Strongest`] a method of streams, like the crate's own stages.
trait OwnStages: Iterator<Item = Result<ImageFeatures>> + Sized {
    fn strongest(self) -> Strongest<Self> {
        Strongest(self)
    }
}

impl<I: Iterator<Item = Result<ImageFeatures>>> OwnStages for I {}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut photos = Vec::new();
    for kind in 0..6 {
        for i in 0..10 {
            photos.push((format!("kind {kind}/{i:03}.jpg"), photos::photo(kind, i)?));
        }
    }
    let orb = OrbParams::default().build()?;
    let mut by_label = BTreeMap::new();
    let rows = MemorySource::new(photos)
        .open()?
        .features(&orb)
        .strongest()
        .explode()
        // A closure is a stage, too.
        .inspect(|batch| {
            for image in batch.iter().flat_map(RowBatch::images) {
                *by_label.entry(image.meta.label.clone()).or_insert(0) += image.rows.len();
            }
        });
    let (model, rows) = rows.fit_pca(&PcaParams::new(4), &Spool::default())?;
    let report = rows.project(&model).write_to(NullSink::default())?;
    println!("{} rows, {} components; by label: {by_label:?}", report.rows, model.n_components());
    Ok(())
}
