//! S3 to S3 without an account: starts an S3 server in this process, with sample photos, runs the
//! main job from one prefix to another, and reads the result back.
//!
//! ```sh
//! cargo run --release --features s3 --example s3
//! ```

use std::collections::BTreeMap;

use arrow_array::cast::AsArray as _;
use bytes::Bytes;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::photos;
use testkit::s3::{ACCESS_KEY, Memory, SECRET_KEY, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Memory::with_bucket("fruits");
    let server = Server::start(&memory);
    println!("an S3 server in memory listens on {}", server.endpoint());
    for (kind, name) in ["apple", "kiwi", "lemon", "mango", "melon", "plum"].iter().enumerate() {
        for i in 0..20 {
            memory.seed("fruits", &format!("photos/{name}/{i:03}.jpg"), photos::photo(kind, i)?);
        }
    }
    println!("it holds {} photos in s3://fruits/photos\n", memory.keys("fruits", "photos/").len());

    // On AWS, `S3Params::default().with_region("eu-central-1").connect()?` is all that is needed.
    let s3 = S3Params::default()
        .with_endpoint_url(server.endpoint())
        .with_region("eu-central-1")
        .with_credentials(ACCESS_KEY, SECRET_KEY, None)
        .connect()?;
    let photos = S3Source::new(&s3, "s3://fruits/photos")?;
    let sink = FileSink::create_in_s3(&s3, "s3://fruits/features", FileParams::default())?;
    let orb = OrbParams::default().with_n_features(30).build()?;
    let report = Pipeline::new(photos, orb, sink).with_pca(PcaParams::new(20)).run()?;
    println!("{report}\n");

    let result = memory.objects("fruits", "features/");
    println!("rows by label, read back:");
    let mut rows = BTreeMap::new();
    for (_, bytes) in result.iter().filter(|(key, _)| key.ends_with(".parquet")) {
        count_by_label(bytes, &mut rows)?;
    }
    for (label, rows) in rows {
        println!("  {label:<12}{rows:>6}");
    }
    println!("\nwhat is there now:");
    for (key, bytes) in result {
        println!("  {:>9} bytes  s3://fruits/{key}", bytes.len());
    }
    Ok(())
}

fn count_by_label(
    parquet: &Bytes,
    rows: &mut BTreeMap<String, usize>,
) -> Result<(), Box<dyn std::error::Error>> {
    for batch in ParquetRecordBatchReaderBuilder::try_new(parquet.clone())?.build()? {
        let batch = batch?;
        let labels = batch.column_by_name("label").ok_or("no column label")?;
        for label in labels.as_string::<i32>().iter().flatten() {
            *rows.entry(label.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}
