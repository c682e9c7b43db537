//! S3 to S3 against a server that others wrote: moto, from PyPI (`pip install 'moto[server]'`).
//!
//! `ORB_FEATURES_MOTO=venv/bin/moto_server cargo test --features s3 --test s3 -- --include-ignored other_server`
#![cfg(feature = "s3")]

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use bytes::Bytes;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::photos;

struct Moto {
    child: Child,
    endpoint: String,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Moto {
    fn start() -> Self {
        let program = std::env::var_os("ORB_FEATURES_MOTO").expect("ORB_FEATURES_MOTO is not set");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_mins(1), "moto does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let endpoint = format!("http://{address}");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&endpoint)
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
            .force_path_style(true)
            .build();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let moto = Self { child, endpoint, client: Client::from_conf(config), runtime };
        let place = CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::EuCentral1)
            .build();
        let created = moto.client.create_bucket().bucket("lab").create_bucket_configuration(place);
        moto.runtime.block_on(created.send()).unwrap();
        moto
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let put = self.client.put_object().bucket("lab").key(key).body(bytes.to_vec().into());
        self.runtime.block_on(put.send()).unwrap();
    }

    fn get(&self, key: &str) -> Bytes {
        self.runtime.block_on(async {
            let got = self.client.get_object().bucket("lab").key(key).send().await.unwrap();
            got.body.collect().await.unwrap().into_bytes()
        })
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let list = self.client.list_objects_v2().bucket("lab").prefix(prefix);
        let page = self.runtime.block_on(list.send()).unwrap();
        page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }

    fn uploads(&self) -> usize {
        let list = self.client.list_multipart_uploads().bucket("lab");
        self.runtime.block_on(list.send()).unwrap().uploads().len()
    }

    fn connect(&self) -> S3 {
        S3Params::default()
            .with_endpoint_url(&self.endpoint)
            .with_region("eu-central-1")
            .with_credentials("key", "secret", None)
            .connect()
            .unwrap()
    }

    fn rows(&self) -> i64 {
        self.keys("out/part-")
            .iter()
            .map(|key| {
                let reader = ParquetRecordBatchReaderBuilder::try_new(self.get(key)).unwrap();
                reader.metadata().file_metadata().num_rows()
            })
            .sum()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job(s3: &S3, mode: WriteMode) -> Result<RunReport> {
    let params = FileParams::default().with_mode(mode).with_rows_per_file(50);
    let source = S3Source::new(s3, "s3://lab/in")?.with_page_size(7);
    let sink = FileSink::create_in_s3(s3, "s3://lab/out", params)?;
    Pipeline::new(source, OrbParams::default().build()?, sink).run()
}

#[test]
#[ignore = "needs moto_server, named by ORB_FEATURES_MOTO"]
fn the_main_job_from_s3_to_s3() {
    let moto = Moto::start();
    let folder = tempfile::tempdir().unwrap();
    for i in 0..36 {
        let jpeg = photos::photo(i % 6, i as u32 / 6).unwrap();
        let name = format!("{}/{i:03}.jpg", ["a b+c", "été %41", "x&y"][i % 3]);
        moto.put(&format!("in/{name}"), &jpeg);
        let path = folder.path().join("in").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, jpeg).unwrap();
    }
    let s3 = moto.connect();
    let strip = |images: Vec<ImageObject>, root: &str| -> Vec<_> {
        let below = |uri: &str| uri.strip_prefix(root).unwrap().trim_matches('/').to_owned();
        images.into_iter().map(|image| (below(&image.uri), image.label, image.bytes)).collect()
    };
    let images = |source: S3Source| source.open().unwrap().map(Result::unwrap).collect();
    let in_bucket = images(S3Source::new(&s3, "s3://lab/in").unwrap().with_page_size(7));
    let on_disk =
        FsSource::new(folder.path().join("in")).open().unwrap().read().map(Result::unwrap);
    let root = folder.path().join("in").display().to_string();
    assert_eq!(strip(in_bucket, "s3://lab/in"), strip(on_disk.collect(), &root));

    let report = job(&s3, WriteMode::Error).unwrap();
    assert!(report.sink.files > 2 && report.retries == 0);
    assert_eq!(moto.rows() as u64, report.rows);
    assert!(matches!(job(&s3, WriteMode::Error), Err(Error::OutputExists { .. })));
    job(&s3, WriteMode::Append).unwrap();
    assert_eq!(moto.rows() as u64, 2 * report.rows);
    job(&s3, WriteMode::Overwrite).unwrap();
    assert_eq!(moto.rows() as u64, report.rows);
    let others = || {
        let keys = moto.keys("out/_");
        let (images, others): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.starts_with("out/_images/"));
        // One list of images for each run.
        assert_eq!(images.len(), moto.keys("out/part-00000-").len());
        others
    };
    let done = ["out/_SUCCESS", "out/_manifest.json"];
    assert_eq!(others(), done);

    // One sink that is dropped half-way, and two jobs at a time.
    let mut sink = FileSink::create_in_s3(
        &s3,
        "s3://lab/out",
        FileParams::default().with_mode(WriteMode::Append),
    )
    .unwrap();
    let mut batch = RowBatch::new(OrbParams::default().build().unwrap().output());
    batch.push_failed(FailedImage::new(None, "decode", "corrupt", ""));
    // Without scores, its columns are not those of the result.
    sink.write(batch).unwrap_err();
    drop(sink);
    let jobs: Vec<_> = (0..2)
        .map(|_| {
            let s3 = moto.connect();
            std::thread::spawn(move || job(&s3, WriteMode::Overwrite).unwrap())
        })
        .collect();
    assert!(jobs.into_iter().all(|job| job.join().unwrap().rows == report.rows));
    assert_eq!(moto.rows() as u64, report.rows);
    assert_eq!((others(), moto.uploads()), (done.map(str::to_owned).to_vec(), 0));
    let missing = S3Source::new(&s3, "s3://missing/in").unwrap().open().unwrap_err();
    assert!(missing.to_line().contains("the bucket does not exist"), "{missing}");
}
