//! A custom extractor in the whole job: colour photos to 64 floats each, PCA and Parquet.
//!
//! ```sh
//! cargo run --release --example own_extractor [FOLDER]
//! ```

use orb_features::prelude::*;

/// The share of an image's pixels in each of 4 x 4 x 4 colours.
#[derive(Clone)]
struct ColorHistogram;

impl FeatureExtractor for ColorHistogram {
    type Scratch = ();

    fn describe(&self) -> String {
        r#"{"name":"colour histogram","bins":[4,4,4]}"#.to_owned()
    }

    fn pixels(&self) -> PixelSpec {
        PixelSpec::new(PixelFormat::Rgb)
    }

    fn output(&self) -> VectorFormat {
        VectorFormat::f32(64)
    }

    fn extract(&self, image: PixelView<'_>, (): &mut ()) -> Result<Extracted> {
        let mut bins = vec![0.0; 64];
        let share = 1.0 / (image.width() * image.height()) as f32;
        for &[r, g, b] in image.as_bytes().as_chunks::<3>().0 {
            bins[usize::from((r >> 6) << 4 | (g >> 6) << 2 | b >> 6)] += share;
        }
        Ok(Vectors::from_f32(bins, 64)?.into())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target/own_extractor".to_owned());
    testkit::photos::write_photos(format!("{folder}/photos").as_ref(), 20)?;
    let parquet = FileParams::default().with_mode(WriteMode::Overwrite);
    let sink = FileSink::create(format!("{folder}/features"), parquet)?;
    let photos = FsSource::new(format!("{folder}/photos"));
    let report = Pipeline::new(photos, ColorHistogram, sink).with_pca(PcaParams::new(8)).run()?;
    println!("{report}");
    Ok(())
}
