//! S3 to S3 without an account: starts an S3 server in this process, uploads sample photos, runs the
//! main job from one prefix to another, and reads the result back.
//!
//! ```sh
//! cargo run --release --example s3
//! ```

mod samples;
#[path = "../tests/support/s3/mod.rs"]
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray as _;
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use server::{ACCESS_KEY, Memory, SECRET_KEY, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Memory::with_bucket("fruits");
    let server = Server::start(&memory);
    println!("an S3 server in memory listens on {}", server.endpoint());

    // Another client does what the rest of the world does: it puts photos, and reads the result.
    let other = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region("eu-central-1")
        .with_bucket_name("fruits")
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let uploaded = runtime.block_on(upload(&other))?;
    println!("uploaded {uploaded} photos to s3://fruits/photos\n");

    // On AWS, `S3Params::default().with_region("eu-central-1").connect()?` is all that is needed.
    let s3 = S3Params::default()
        .with_endpoint_url(server.endpoint())
        .with_region("eu-central-1")
        .with_credentials(ACCESS_KEY, SECRET_KEY, None)
        .connect()?;
    let photos = S3Source::new(&s3, "s3://fruits/photos")?;
    let sink = ParquetSink::create_in_s3(&s3, "s3://fruits/features", ParquetParams::default())?;
    let orb = OrbParams::default().with_n_features(30).build()?;
    let report = Pipeline::new(photos, orb, sink).with_pca(PcaParams::new(20)).run()?;
    println!("{report}\n");

    println!("rows by label, read back:");
    for (label, rows) in runtime.block_on(rows_by_label(&other))? {
        println!("  {label:<12}{rows:>6}");
    }
    println!("\nwhat is there now:");
    for (key, bytes) in memory.objects("fruits", "features/") {
        println!("  {:>9} bytes  s3://fruits/{key}", bytes.len());
    }
    Ok(())
}

async fn upload(store: &AmazonS3) -> Result<usize, Box<dyn std::error::Error>> {
    let kinds = ["apple", "kiwi", "lemon", "mango", "melon", "plum"];
    let mut uploaded = 0;
    for (kind, name) in kinds.iter().enumerate() {
        for i in 0..20 {
            let jpeg = samples::photo(kind, i)?;
            store.put(&Path::from(format!("photos/{name}/{i:03}.jpg")), jpeg.into()).await?;
            uploaded += 1;
        }
    }
    Ok(uploaded)
}

async fn rows_by_label(
    store: &AmazonS3,
) -> Result<BTreeMap<String, usize>, Box<dyn std::error::Error>> {
    let mut rows = BTreeMap::new();
    let files: Vec<_> = store.list(Some(&Path::from("features"))).try_collect().await?;
    for file in files.iter().filter(|file| file.location.extension() == Some("parquet")) {
        let bytes = store.get(&file.location).await?.bytes().await?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
            let batch = batch?;
            let labels = Arc::clone(batch.column_by_name("label").ok_or("no column label")?);
            for label in labels.as_string::<i32>().iter().flatten() {
                *rows.entry(label.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(rows)
}
