//! The main job from nothing: draws sample photos, extracts their features, writes Parquet.
//!
//! ```sh
//! cargo run --release --example quickstart [FOLDER]
//! ```

use std::path::PathBuf;

use orb_features::prelude::*;
use testkit::photos;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("target/quickstart"), PathBuf::from);
    let (photos, features) = (folder.join("photos"), folder.join("features"));
    let drawn = photos::write_photos(&photos, 40)?;
    println!("drew {drawn} photos in {}\n", photos.display());

    let orb = OrbParams::default().with_n_features(30).build()?;
    let parquet = FileParams::default().with_mode(WriteMode::Overwrite);
    let report = Pipeline::new(FsSource::new(&photos), orb, FileSink::create(&features, parquet)?)
        .with_pca(PcaParams::new(20))
        .run()?;

    println!("{report}\n\nlook at it with one of");
    let out = features.display();
    println!("  python3 -c \"import pandas; print(pandas.read_parquet('{out}'))\"");
    println!(
        "  duckdb -c \"select label, count(*) from '{out}/*.parquet' group by all order by all\""
    );
    Ok(())
}
