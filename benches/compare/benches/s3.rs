//! Lists and gets 5,000 objects of 5 kB, compared with `object_store`, and runs the whole job from S3 to S3,
//! compared with folder to folder. The server is a separate process on loopback.
//!
//! Besides criterion's times, this prints the CPU time of this process per object.

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use orb_features::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use testkit::photos;
use testkit::s3::{ACCESS_KEY, Memory, SECRET_KEY, Server};

const OBJECTS: u64 = 5000;
const PHOTOS: u32 = 600;

/// The server in a process of its own: this program, started with `ORB_FEATURES_BENCH_SERVER` set.
struct Process {
    child: Child,
    endpoint: String,
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env("ORB_FEATURES_BENCH_SERVER", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut endpoint = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
        Self { child, endpoint: endpoint.trim().to_owned() }
    }

    fn serve() {
        let memory = Memory::with_bucket("lab");
        let bytes: Vec<u8> =
            (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let keys = (0..OBJECTS).map(|i| format!("small/{i:06}.jpg"));
        memory.seed_many("lab", keys, bytes.into());
        for i in 0..PHOTOS {
            let jpeg: Bytes = photos::photo(i as usize % 6, i / 6).unwrap().into();
            memory.seed("lab", &format!("photos/{}/{:03}.jpg", i % 6, i / 6), jpeg);
        }
        let server = Server::start(&memory);
        println!("{}", server.endpoint());
        std::io::stdout().flush().unwrap();
        // Serves until the benchmark ends, which closes stdin or kills this process.
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    fn connect(&self) -> S3 {
        S3Params::default()
            .with_endpoint_url(&self.endpoint)
            .with_region("eu-central-1")
            .with_credentials(ACCESS_KEY, SECRET_KEY, None)
            .connect()
            .unwrap()
    }

    fn object_store(&self) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("eu-central-1")
            .with_bucket_name("lab")
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .build()
            .unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Calls `run` five times and prints the median CPU time per object.
fn print_cpu(name: &str, objects: u64, mut run: impl FnMut()) {
    // `cargo test` only checks that the benchmarks run; it measures nothing.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let before = cpu();
            run();
            cpu().saturating_sub(before).as_secs_f64() * 1e6 / objects as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name}: {:.0} us of CPU for each object", times[2]);
}

fn get(s3: &S3, requests: usize) {
    let source = S3Source::new(s3, "s3://lab/small").unwrap().with_requests_in_flight(requests);
    let images = source.open().unwrap().map(Result::unwrap);
    assert_eq!(
        images.map(|image| black_box(image).bytes.len() as u64).sum::<u64>(),
        OBJECTS * 5000
    );
}

async fn get_with_object_store(store: &AmazonS3, requests: usize) {
    let sizes = store
        .list(Some(&"small".into()))
        .map_ok(|object| async move { Ok(store.get(&object.location).await?.bytes().await?.len()) })
        .try_buffered(requests);
    let sizes: Vec<usize> = sizes.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(sizes.iter().sum::<usize>() as u64, OBJECTS * 5000);
}

fn list_and_get(c: &mut Criterion) {
    let server = Process::start();
    let (s3, store) = (server.connect(), server.object_store());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut group = c.benchmark_group("list_and_get");
    group.sample_size(10).throughput(Throughput::Elements(OBJECTS));
    for requests in [1, 16, 64, 256] {
        group.bench_function(BenchmarkId::new("orb_features", requests), |b| {
            b.iter(|| get(&s3, requests));
        });
        group.bench_function(BenchmarkId::new("object_store", requests), |b| {
            b.iter(|| runtime.block_on(get_with_object_store(&store, requests)));
        });
    }
    group.finish();
    print_cpu("list_and_get/orb_features/64", OBJECTS, || get(&s3, 64));
    print_cpu("list_and_get/object_store/64", OBJECTS, || {
        runtime.block_on(get_with_object_store(&store, 64));
    });
}

fn whole_job(c: &mut Criterion) {
    let server = Process::start();
    let s3 = server.connect();
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    assert_eq!(photos::write_photos(&photos, PHOTOS / 6).unwrap(), PHOTOS);
    let out = folder.path().join("out");
    let params = || FileParams::default().with_mode(WriteMode::Overwrite);
    let orb = OrbParams::default().build().unwrap();
    let folder_to_folder = || {
        let sink = FileSink::create(&out, params()).unwrap();
        Pipeline::new(FsSource::new(&photos), orb.clone(), sink).run().unwrap();
    };
    let s3_to_s3 = || {
        let sink = FileSink::create_in_s3(&s3, "s3://lab/out", params()).unwrap();
        let source = S3Source::new(&s3, "s3://lab/photos").unwrap();
        Pipeline::new(source, orb.clone(), sink).run().unwrap();
    };
    let mut group = c.benchmark_group("whole_job");
    group.sample_size(10).throughput(Throughput::Elements(PHOTOS.into()));
    group.bench_function("folder_to_folder", |b| b.iter(folder_to_folder));
    group.bench_function("s3_to_s3", |b| b.iter(s3_to_s3));
    group.finish();
    print_cpu("whole_job/folder_to_folder", PHOTOS.into(), folder_to_folder);
    print_cpu("whole_job/s3_to_s3", PHOTOS.into(), s3_to_s3);
}

criterion_group!(benches, list_and_get, whole_job);

fn main() {
    if std::env::var_os("ORB_FEATURES_BENCH_SERVER").is_some() {
        Process::serve();
    } else {
        benches();
    }
}
