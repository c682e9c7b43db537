//! The command line from and to S3, in a process of its own, against a server in this one.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::{ArrayRef, StringArray};
use bytes::Bytes;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::parquet::rows_of;
use testkit::photos;
use testkit::s3::{ACCESS_KEY, Fault, Memory, SECRET_KEY, Server};

/// A folder and a bucket with the same photos, and a server.
struct Bench {
    root: tempfile::TempDir,
    memory: Memory,
    server: Server,
}

impl Bench {
    fn new(photos: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        let memory = Memory::with_bucket("lab");
        let server = Server::start(&memory);
        fs::create_dir(root.path().join("in")).unwrap();
        let bench = Self { root, memory, server };
        // At most 60 photos are drawn; beyond that they repeat.
        let drawn: Vec<Vec<u8>> =
            (0..60.min(photos)).map(|i| photos::photo(i as usize % 6, i / 6).unwrap()).collect();
        for i in 0..photos {
            let kind = ["Apple Red 1", "kiwi+50%", "mangue été"][i as usize % 3];
            bench.put(&format!("{kind}/{i:04}.jpg"), &drawn[i as usize % drawn.len()]);
        }
        bench
    }

    /// Puts a file into both the folder and the bucket.
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.root.path().join("in").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self.memory.seed("lab", &format!("in/{name}"), bytes.to_vec());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
        command.current_dir(self.root.path()).arg("extract").args(args);
        command.envs(self.server.environment());
        command
    }

    fn extract(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn report(&self, args: &[&str]) -> RunReport {
        let output = self.extract(&[args, &["--json"]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        // On a slow machine, five seconds without an answer are not rare in a storm.
        let is_silent =
            message.lines().all(|line| line.starts_with("warning: S3 has served no request for"));
        assert!(output.status.success() && is_silent, "{args:?}: {message}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Expects a failure with a message of one line (and perhaps a hint) that holds no secret.
    fn fails(&self, args: &[&str], status: i32, says: &[&str]) {
        self.ends(self.command(args), status, says);
    }

    fn ends(&self, mut command: Command, status: i32, says: &[&str]) {
        let started = Instant::now();
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{command:?}: {message}");
        assert!(output.stdout.is_empty());
        for word in says {
            assert!(message.contains(word), "{command:?}: no {word:?} in: {message}");
        }
        let lines: Vec<_> = message.lines().filter(|line| !line.starts_with("hint: ")).collect();
        assert!(lines.len() == 1 || status == 2, "{message}");
        assert!(!message.contains(SECRET_KEY), "{message}");
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        assert_eq!(self.litter(), Vec::<String>::new(), "{message}");
    }

    /// Uploads and work objects, which a run must not leave behind.
    fn litter(&self) -> Vec<String> {
        let mut litter = self.memory.uploads();
        litter.extend(self.memory.keys("lab", "out/_work/"));
        litter
    }

    fn parts_in_bucket(&self) -> Vec<Bytes> {
        self.memory.objects("lab", "out/part-").into_values().collect()
    }

    fn parts_in_folder(&self, folder: &str) -> Vec<Bytes> {
        parts_of(&self.root.path().join(folder))
    }
}

fn parts_of(folder: &Path) -> Vec<Bytes> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap().into()).collect()
}

/// All rows of all files, with `root` stripped from the paths, and the notes in the footers.
fn content(files: &[Bytes], root: &str) -> (RecordBatch, Vec<String>) {
    let mut notes = Vec::new();
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
        let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
        let pairs = pairs.iter().filter(|pair| pair.key.starts_with("orb_features."));
        notes.push(format!("{:?}", pairs.collect::<Vec<_>>()));
    }
    let all = rows_of(files.iter().cloned());
    let paths = arrow_array::cast::AsArray::as_string::<i32>(all.column(0));
    let below: StringArray =
        paths.iter().map(|path| path.map(|path| path.strip_prefix(root).unwrap())).collect();
    let mut columns: Vec<ArrayRef> = all.columns().to_vec();
    columns[0] = Arc::new(below);
    (RecordBatch::try_new(all.schema(), columns).unwrap(), notes)
}

#[test]
fn folder_and_bucket_agree_in_every_combination() {
    let bench = Bench::new(60);
    bench.put("kiwi+50%/broken.jpg", b"\xff\xd8\xff broken");
    bench.put("empty.jpg", b"");
    bench.put("notes.txt", b"no image");
    let common = ["--on-error", "record", "--rows-per-file", "100"];
    let run = |from: &str, to: &str| bench.report(&[&[from, to], &common[..]].concat());
    let folder = run("in", "folder-to-folder");
    let expected = content(&bench.parts_in_folder("folder-to-folder"), "in/");
    assert!(expected.0.num_rows() > 300 && expected.1.len() > 3);
    for (from, to) in [
        ("s3://lab/in", "s3://lab/out"),
        ("in", "s3://lab/out"),
        ("s3a://lab/in/", "bucket-to-folder"),
    ] {
        let mode: &[&str] = if to.starts_with("s3") { &["--mode", "overwrite"] } else { &[] };
        let report = bench.report(&[&[from, to], &common[..], mode].concat());
        assert_eq!(report.rows, folder.rows);
        assert_eq!((&report.failed, report.model), (&folder.failed, folder.model.clone()));
        let (files, errors) = if to.starts_with("s3") {
            (bench.parts_in_bucket(), bench.memory.keys("lab", "out/_errors/").len())
        } else {
            (bench.parts_in_folder(to), parts_of(&bench.root.path().join(to).join("_errors")).len())
        };
        let root = if from == "in" { "in/" } else { "s3://lab/in/" };
        assert!(content(&files, root) == expected, "{from} to {to}");
        assert_eq!(errors, 1);
        assert_eq!(bench.litter(), Vec::<String>::new());
    }
    // The summary names the place.
    let output = bench.extract(&["s3://lab/in", "s3://lab/elsewhere", "--on-error", "skip"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("in s3://lab/elsewhere") && text.contains("s3://lab/in/empty.jpg"),
        "{text}"
    );
}

#[test]
fn objects_that_may_be_listed_but_not_read_are_no_empty_result() {
    let bench = Bench::new(200);
    let report = bench.report(&["s3://lab/in", "s3://lab/out", "--no-pca"]);
    let before = bench.memory.keys("lab", "out/");
    bench.server.plan(|asked| {
        let is_photo = asked.method == "GET" && asked.path.contains("/in/");
        is_photo.then_some(Fault::Error(403, "AccessDenied"))
    });
    let asked = bench.server.requests();
    let args = ["s3://lab/in", "s3://lab/out", "--mode", "overwrite", "--on-error"];
    for more in [&["skip"][..], &["record", "--no-pca"]] {
        let args = [&args[..], more, &["--requests-in-flight", "4"]].concat();
        let says = ["no access: all 32 images", "s3://lab/in/", "access denied", "s3:GetObject"];
        bench.fails(&args, 1, &says);
        assert_eq!(bench.memory.keys("lab", "out/"), before);
    }
    assert!(bench.server.requests() - asked < 2 * 200, "it asked for all of them");
    assert!(report.rows > 0);
    let empty = [&args[..], &["skip", "--no-pca", "--allow-empty"]].concat();
    assert_eq!(bench.report(&empty).failed["denied"], 200);
}

/// Reports, indexes and drawings of a result in S3 are those of one in a folder; what its manifest does not name is no
/// part of it.
#[test]
fn a_result_in_s3_is_read_back_as_one_in_a_folder() {
    let bench = Bench::new(30);
    bench.put("kiwi+50%/torn.jpg", &[0xff, 0xd8, 0, 0]);
    for out in ["out", "s3://lab/out"] {
        bench.report(&["s3://lab/in", out, "--on-error", "record", "--pca", "4"]);
    }
    // A file that a manifest does not name, as a run leaves that is not committed.
    bench.memory.seed(
        "lab",
        "out/part-00007-00000000000000000000000000000000.parquet",
        b"x".to_vec(),
    );
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
        command.current_dir(bench.root.path()).args(args).envs(bench.server.environment());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let read = |name: &str| fs::read(bench.root.path().join(name)).unwrap();
    for (out, name) in [("out", "1"), ("s3://lab/out", "2")] {
        run(&["index", out, "-o", &format!("{name}.index")]);
        // The photos are in S3 for both.
        let (html, json) = (format!("{name}.html"), format!("{name}.json"));
        run(&["report", out, "-o", &html, "--json", &json]);
    }
    assert_eq!(read("1.index"), read("2.index"));
    let [one, two] = ["1.json", "2.json"]
        .map(|name| -> serde_json::Value { serde_json::from_slice(&read(name)).unwrap() });
    assert_eq!(one["failures"], two["failures"]);
    assert_eq!(one["failures"]["causes"], serde_json::json!([["corrupt", 1]]));
    assert_eq!((&one["labels"], &one["mixups"]), (&two["labels"], &two["mixups"]));
    assert_eq!(one["extremes"], two["extremes"]);
    assert_eq!((&two["extremes"]["read"], &two["extremes"]["unread"]), (&30.into(), &0.into()));
    let photo = "s3://lab/in/mangue été/0002.jpg";
    let said = run(&["search", "1.index", photo, "-k", "1"]);
    assert!(said.ends_with(&format!("mangue été  {photo}\n")), "{said}");
    run(&["draw", photo, "-o", "k.svg", "--result", "s3://lab/out"]);
    run(&["match", photo, "in/mangue été/0002.jpg"]);
    let listed = run(&["duplicates", "s3://lab/out", "--exact"]);
    assert!(listed.contains("0 exact, 0 same-features"), "{listed}");
}

#[test]
fn files_of_other_features_are_not_added_to_a_result_in_s3() {
    let bench = Bench::new(24);
    let args = ["s3://lab/in", "s3://lab/out", "--no-pca", "--mode", "append"];
    bench.report(&args);
    bench.report(&args);
    let before = bench.memory.keys("lab", "out/");
    let other = [&args[..], &["--wta-k", "3"]].concat();
    bench.fails(&other, 1, &["s3://lab/out", "wta_k: there 2, in this job 3"]);
    assert_eq!(bench.memory.keys("lab", "out/"), before);
    bench.report(&[&other[..], &["--force"]].concat());
    assert_eq!(bench.parts_in_bucket().len(), 3);
}

#[test]
fn five_thousand_objects_come_through_a_storm() {
    let bench = Bench::new(5000);
    let calm = bench.report(&["in", "calm"]);
    bench.server.storm(1);
    let report = bench.report(&[
        "s3://lab/in",
        "s3://lab/out",
        "--timeout",
        "2",
        "--requests-in-flight",
        "200",
    ]);
    let requests = bench.server.requests();
    assert!(bench.server.faults() * 10 > requests * 3, "{} of {requests}", bench.server.faults());
    bench.server.heal();
    assert_eq!((report.images, report.decoded, report.rows), (5000, 5000, calm.rows));
    assert!(report.retries > 1000, "{}", report.retries);
    let stormy = content(&bench.parts_in_bucket(), "s3://lab/in/");
    assert!(stormy == content(&bench.parts_in_folder("calm"), "in/"));
    assert_eq!(bench.litter(), Vec::<String>::new());
    let text = report.to_string();
    assert!(text.contains("retries"), "{text}");
}

#[test]
fn selections_and_listings() {
    let bench = Bench::new(12);
    bench.put("top.jpg", &photos::photo(1, 1).unwrap());
    bench.put("top.png", b"not listed");
    let images = |args: &[&str]| {
        let all = ["s3://lab/in", "s3://lab/out", "--no-pca", "--mode", "overwrite"];
        bench.report(&[&all[..], args].concat()).images
    };
    assert_eq!(images(&["--glob", "**/*.jpg"]), 13);
    assert_eq!(images(&["--one-level", "--extensions", "jpg"]), 1);
    assert_eq!(images(&["--glob", "kiwi*/*", "--min-bytes", "1", "--max-bytes", "1000000"]), 4);
    fs::write(bench.root.path().join("keys.txt"), "in/top.jpg\nin/kiwi+50%/0001.jpg\n").unwrap();
    let listing = ["--listing", "keys.txt", "--requests-in-flight", "1", "--bytes-in-flight", "10"];
    assert_eq!(images(&listing), 2);
    let folder = bench.report(&["in", "out", "--one-level", "--extensions", ".JPG", "--no-pca"]);
    assert_eq!(folder.images, 1);
}

#[test]
fn what_is_wrong_is_one_line_and_soon() {
    let bench = Bench::new(2);
    let wrong = |name: &str, value: &str, says: &[&str]| {
        let mut command = bench.command(&["s3://lab/in", "s3://lab/out"]);
        command.env(name, value);
        bench.ends(command, 1, says);
    };
    wrong("AWS_SECRET_ACCESS_KEY", "wrong", &["cannot list s3://lab/in", "secret key is wrong"]);
    wrong("AWS_ACCESS_KEY_ID", "AKIANOBODY", &["cannot list s3://lab/in", "access key does not"]);
    let says = ["the AWS credentials cannot be used", "access key id", "end of line"];
    wrong("AWS_ACCESS_KEY_ID", "AKIA\n", &says);
    wrong("AWS_SESSION_TOKEN", "to\nken", &says);
    let says = ["cannot list s3://lab/in", "refused", "(http://127.0.0.1:9), after 3"];
    wrong("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9", &says);
    let mut command = bench.command(&["s3://lab/in", "s3://lab/out"]);
    for (name, _) in bench.server.environment() {
        if name.contains("KEY") {
            command.env_remove(name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    bench.ends(command, 1, &["no AWS credentials were found", "hint: ", "--no-sign-request"]);

    let run = |args: &[&str], says: &[&str]| bench.fails(args, 1, says);
    run(&["s3://nobucket/in", "s3://lab/out"], &["cannot list s3://nobucket/in", "does not exist"]);
    run(
        &["s3://lab/in", "s3://nobucket/out"],
        &["cannot write s3://nobucket/out", "does not exist"],
    );
    run(&["s3://lab/in", "s3://lab/out", "--profile", "nobody"], &["cannot connect", "nobody"]);
    run(&["s3://lab/none", "s3://lab/out"], &["no image in s3://lab/none: there are no objects"]);
    fs::write(bench.root.path().join("keys.txt"), "kiwi/1.jpg\n").unwrap();
    let lines = ["s3://lab/in", "s3://lab/out", "--listing", "keys.txt"];
    run(&lines, &["none of the 1 keys in keys.txt begins with \"in/\""]);
    run(&["s3://lab/in", "s3://lab/in"], &["s3://lab/in exists", "overwrite"]);
    run(&["s3://lab/in", "s3://lab/in", "--mode", "overwrite"], &["not part of a result"]);
    run(&["s3://lab/in", "s3://lab/out", "--no-sign-request"], &["access denied"]);
    run(&["s3://lab/in", "s3://lab/out", "--listing", "none.csv"], &["none.csv", "No such file"]);
    bench.server.plan(|_| Some(Fault::WrongRegion("eu-west-3")));
    run(&["s3://lab/in", "s3://lab/out"], &["wrong region: the bucket is in eu-west-3"]);
    bench.server.heal();

    let usage = |args: &[&str], says: &[&str]| bench.fails(args, 2, says);
    usage(&["s3://", "out"], &["s3://"]);
    usage(&["s3:/lab/in", "out"], &["s3:/lab/in", "s3://bucket/prefix"]);
    usage(&["in", "S3://lab/out"], &["S3://lab/out"]);
    usage(&["in", "out", "--save-model", "s3://lab/m.json"], &["local file"]);
    usage(&["in", "out", "--region", "eu-central-1"], &["--region is for s3://"]);
    usage(&["in", "s3://lab/out", "--listing", "x"], &["--listing is for s3:// as IN"]);
    usage(&["s3://lab/in", "out", "--no-conditional-writes"], &["s3:// as OUT"]);
    usage(&["s3://lab/in", "out", "--attempts", "0"], &["--attempts"]);
    usage(&["s3://lab/in", "out", "--endpoint-url", "localhost"], &["localhost"]);
    usage(&["in", "out", "--run-id", "x"], &["--run-id is for s3:// as OUT"]);
    usage(&["in", "s3://lab/out", "--run-id", "two words"], &["run_id", "two words"]);
    let one = bench.memory.keys("lab", "in/").remove(0);
    let one = format!("s3://lab/{one}");
    for option in [
        &["--glob", "*"][..],
        &["--extensions", "jpg"],
        &["--min-bytes", "1"],
        &["--max-bytes", "1"],
        &["--one-level"],
    ] {
        usage(&[&[&one, "s3://lab/out"], option].concat(), &["is a single object"]);
    }
    assert!(!bench.root.path().join("out").exists());
}

#[test]
fn a_profile_goes_before_the_environment() {
    let bench = Bench::new(3);
    let config = bench.root.path().join("config");
    let endpoint = bench.server.endpoint();
    let text = format!(
        "[profile p]\nregion = eu-west-1\nendpoint_url = {endpoint}\n\
         aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = bench.command(&["s3://lab/in", "out", "--no-pca", "--profile", "p"]);
    command.env_remove("AWS_ENDPOINT_URL_S3").env("AWS_SECRET_ACCESS_KEY", "wrong");
    let output = command.env("AWS_CONFIG_FILE", &config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The error names the profile, not the missing credentials in the environment.
#[test]
fn a_profile_without_credentials_is_named() {
    let bench = Bench::new(1);
    let config = bench.root.path().join("config");
    fs::write(&config, "[profile bare]\nregion = eu-west-1\n").unwrap();
    let mut command = bench.command(&["s3://lab/in", "out", "--profile", "bare"]);
    command.env("AWS_CONFIG_FILE", &config);
    bench.ends(command, 1, &["the AWS credentials of the profile bare cannot be used"]);
}

#[test]
fn a_server_that_is_down_for_a_while_is_told_of_once() {
    let bench = Bench::new(2);
    let start = Instant::now();
    bench.server.plan(move |_| {
        (start.elapsed() < Duration::from_secs(7)).then_some(Fault::Error(503, "SlowDown"))
    });
    let output = bench.extract(&["s3://lab/in", "out", "--no-pca", "--attempts", "20"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let says = "warning: S3 has served no request for 5 s, still trying: ";
    assert!(message.starts_with(says) && message.contains("slow down"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn an_object_that_fails_follows_the_policy() {
    let bench = Bench::new(12);
    bench
        .server
        .plan(|asked| asked.path.ends_with("/0004.jpg").then_some(Fault::Error(503, "SlowDown")));
    let few = ["s3://lab/in", "s3://lab/out", "--attempts", "2"];
    let says = ["0004.jpg", "slow down", "after 2 attempts", "--on-error"];
    bench.fails(&few, 1, &says);
    assert!(bench.memory.keys("lab", "out/").is_empty());
    let report = bench.report(&[&few[..], &["--on-error", "record"]].concat());
    assert_eq!((report.images, report.decoded, report.failed["unavailable"]), (12, 11, 1));
    assert_eq!((report.retries, report.sink.failures), (1, 1));
}

/// Without a server, every image would fail, so that the job must end instead of skipping them one by one.
#[test]
fn an_outage_ends_the_job_whatever_the_policy() {
    let bench = Bench::new(60);
    let keys: Vec<String> = bench.memory.keys("lab", "in/");
    fs::write(bench.root.path().join("keys.txt"), keys.join("\n")).unwrap();
    // With one request at a time the outage comes at a HEAD, with many at a GET.
    for in_flight in ["1", "64"] {
        let is_down = AtomicBool::new(false);
        bench.server.plan(move |asked| {
            if asked.path.ends_with("0030.jpg") {
                is_down.store(true, Ordering::SeqCst);
            }
            is_down.load(Ordering::SeqCst).then_some(Fault::ResetAfterEffect)
        });
        let args = ["s3://lab/in", "out", "--on-error", "skip", "--attempts", "2", "--no-pca"];
        let more = ["--listing", "keys.txt", "--requests-in-flight", in_flight];
        let args = [&args[..], &more].concat();
        bench.fails(&args, 1, &["cannot connect to S3: the network fails"]);
        assert!(!bench.root.path().join("out").exists());
    }
}

#[test]
fn what_an_endpoint_holds_beside_the_address_is_not_printed() {
    let bench = Bench::new(1);
    let address = bench.server.endpoint().replace("http://", "");
    for url in [
        format!("http://user:SECRET@{address}"),
        format!("http://us?er:SECRET@{address}/x"),
        format!("http://{address}?token=SECRET"),
    ] {
        let mut by_variable = bench.command(&["s3://lab/in", "s3://lab/out"]);
        by_variable.env("AWS_ENDPOINT_URL_S3", &url);
        let by_option = bench.command(&["s3://lab/in", "s3://lab/out", "--endpoint-url", &url]);
        for mut command in [by_variable, by_option] {
            let output = command.output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{message}");
            assert!(message.contains("endpoint_url") && !message.contains("SECRET"), "{message}");
        }
    }
}

#[test]
fn a_commit_in_doubt_has_a_status_and_can_be_repeated() {
    let bench = Bench::new(12);
    let args = ["s3://lab/in", "s3://lab/out", "--mode", "append", "--no-pca", "--attempts", "2"];
    let rows = || {
        let count = |file: Bytes| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            reader.metadata().file_metadata().num_rows() as u64
        };
        bench.parts_in_bucket().into_iter().map(count).sum::<u64>()
    };
    let first = bench.report(&args).rows;
    for given in [None, Some("2026-01-01T00:00:00+00:00")] {
        let before = rows();
        // The server is down from the first upload's completion on.
        let is_down = AtomicBool::new(false);
        bench.server.plan(move |asked| {
            if asked.method == "POST" && asked.query.contains("uploadId") {
                is_down.store(true, Ordering::SeqCst);
            }
            is_down.load(Ordering::SeqCst).then_some(Fault::Error(503, "SlowDown"))
        });
        let named = given.map_or(vec![], |id| vec!["--run-id", id]);
        let output = bench.extract(&[&args[..], &named].concat());
        bench.server.heal();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.contains("in doubt whether s3://lab/out was written"), "{message}");
        let (_, id) = message.split_once("--run-id '").unwrap();
        let (id, _) = id.split_once('\'').unwrap();
        assert!(given.is_none_or(|given| given == id), "{message}");
        // The job can be repeated under this id any number of times.
        let again = [&args[..], &["--run-id", id]].concat();
        for json in [false, true, false] {
            let output =
                bench.extract(&[&again[..], if json { &["--json"] } else { &[] }].concat());
            let (text, message) =
                [&output.stdout, &output.stderr].map(|t| String::from_utf8_lossy(t)).into();
            assert!(output.status.success() && message.is_empty(), "{message}");
            assert!(text.contains(&format!("run {id} is part of s3://lab/out already")), "{text}");
            if json {
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert!(json["already_committed"].is_string());
            }
            assert_eq!(rows(), before + first);
        }
    }
    // It is an error if `--save-model` cannot be met because the repeated job fitted no model.
    let model = ["--run-id", "with-model", "--save-model", "model.json"];
    let args = ["s3://lab/in", "s3://lab/pca"];
    bench.report(&[&args[..], &model].concat());
    bench.fails(&[&args[..], &model].concat(), 1, &["part of s3://lab/pca already", "model.json"]);
}

/// Under a limit of threads, the job succeeds or fails soon with a clear error.
#[test]
#[cfg(target_os = "linux")]
fn a_limit_of_threads_is_a_clear_error() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    // Root is exempt from the limit, so the program runs as a user without any other process. Only root can
    // start it so.
    const NOBODY: u32 = 61_234;
    let bench = Bench::new(6);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    open(bench.root.path());
    let program = bench.root.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_orb-features"), &program).unwrap();
    open(&program);
    let mut outcomes = Vec::new();
    for limit in 1..12 {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={limit}")).arg(&program);
        command.args(["extract", "s3://lab/in", "s3://lab/out", "--mode", "overwrite"]);
        command.args(["--threads", "2"]).envs(bench.server.environment());
        command.current_dir(bench.root.path()).env("HOME", "/").uid(NOBODY).gid(NOBODY);
        // A host name, as its lookup takes a thread.
        command
            .env("AWS_ENDPOINT_URL_S3", bench.server.endpoint().replace("127.0.0.1", "localhost"));
        let started = Instant::now();
        let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: not root, or no prlimit ({error})");
                return;
            }
        };
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(25) {
                child.kill().unwrap();
                panic!("it hangs with {limit} threads");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!message.contains("panicked"), "{limit}: {message}");
        let is_clear =
            message.contains("the system allows no more threads") && !message.contains("hint");
        assert!(
            output.status.success() || (output.status.code() == Some(1) && is_clear),
            "{message}"
        );
        outcomes.push(output.status.success());
    }
    // Threads of the program: main, signals, requests and name lookup.
    assert_eq!(outcomes[..2], [false, false]);
    assert!(outcomes[10], "{outcomes:?}");
    println!("{outcomes:?}");
}

/// Starts a run without waiting for its end.
fn start(bench: &Bench, args: &[&str]) -> Child {
    bench.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn an_interrupt_cleans_up_even_while_nothing_comes() {
    let bench = Bench::new(40);
    let is_stuck = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_stuck);
    // Reads, then uploads, then the beginning of the commit, hang for ever.
    for stuck in ["GET /lab/in/", "PUT /lab/out/part-", "GET /lab/out/part-"] {
        let flag = Arc::clone(&flag);
        is_stuck.store(false, Ordering::SeqCst);
        bench.server.plan(move |asked| {
            let request = format!("{} {}", asked.method, asked.path);
            let is_one = request.starts_with(stuck) && !asked.query.contains("list-type");
            is_one.then(|| {
                flag.store(true, Ordering::SeqCst);
                Fault::Late(Duration::from_mins(10))
            })
        });
        let args = ["s3://lab/in", "s3://lab/out", "--timeout", "1000"];
        let child = start(&bench, &args);
        while !is_stuck.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let started = Instant::now();
        signal(&child, "-INT");
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stuck}: {message}");
        assert!(started.elapsed() < Duration::from_secs(9), "{stuck}: {:?}", started.elapsed());
        assert!(message.contains("interrupted"), "{message}");
        let left = (bench.memory.keys("lab", "out/"), bench.memory.uploads());
        assert_eq!(left, Default::default(), "{stuck}");
    }
}

#[test]
#[cfg(unix)]
fn a_service_for_credentials_that_is_silent_is_given_up() {
    let bench = Bench::new(1);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let token = bench.root.path().join("token");
    fs::write(&token, "token").unwrap();
    let command = |timeout: &str| {
        let mut command = bench.command(&["s3://lab/in", "s3://lab/out", "--timeout", timeout]);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_ENDPOINT_URL_STS", format!("http://{}", silent.local_addr().unwrap()));
        command.env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x");
        command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token);
        command
    };
    let started = Instant::now();
    bench.ends(command("1"), 1, &["no AWS credentials came within 1s"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // The silent service was asked; the next run asks it, too.
    let first = silent.accept().unwrap();
    let child = command("1000").stderr(Stdio::piped()).spawn().unwrap();
    let second = silent.accept().unwrap();
    let started = Instant::now();
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop((first, second));
}

#[test]
#[cfg(unix)]
fn an_interrupt_is_quick_when_the_server_falls_silent() {
    let bench = Bench::new(6);
    for stuck in ["GET /lab", "PUT /lab/out/_work/", "POST /lab/out/part-", "PUT /lab/out/part-"] {
        let is_silent = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_silent);
        bench.server.plan(move |asked| {
            if format!("{} {}", asked.method, asked.path).starts_with(stuck) {
                flag.store(true, Ordering::SeqCst);
            }
            flag.load(Ordering::SeqCst).then_some(Fault::Late(Duration::from_mins(10)))
        });
        let child = start(&bench, &["s3://lab/in", "s3://lab/out"]);
        while !is_silent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let started = Instant::now();
        signal(&child, "-INT");
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stuck}: {message}");
        assert!(started.elapsed() < Duration::from_secs(9), "{stuck}: {:?}", started.elapsed());
    }
}

/// Runs are killed at requests of all kinds, and at random moments; the run after each succeeds and
/// clears up, and no reader ever sees a part of a result.
#[test]
#[cfg(target_os = "linux")]
fn a_killed_run_leaves_nothing_that_the_next_does_not_mend() {
    let bench = Bench::new(30);
    let args =
        ["s3://lab/in", "s3://lab/out", "--mode", "overwrite", "--rows-per-file", "50", "--no-pca"];
    let first = bench.report(&args);
    assert!(first.sink.files > 2);
    let rows = first.rows as i64;
    let is_result = move |files: &[Bytes]| {
        let count = |file: &Bytes| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
            reader.metadata().file_metadata().num_rows()
        };
        files.iter().map(count).sum::<i64>() == rows
    };
    let check = move |memory: &Memory| testkit::s3::violation(memory, "lab", "out", is_result);
    let before = bench.server.requests();
    bench.report(&args);
    let whole = (bench.server.requests() - before) as i64;
    let mut killed_at = Vec::new();
    // All requests after the last photo belong to uploads and commit, so each of them is tried.
    let requests = (5..whole + 2).filter(|n| *n > whole - 34 || n % 9 == 0);
    for last in requests {
        let seen = Arc::new(Mutex::new(None));
        let (process, left) = (Arc::new(AtomicI64::new(0)), AtomicI64::new(last));
        let (memory, violations, id) =
            (bench.memory.clone(), Arc::clone(&seen), Arc::clone(&process));
        bench.server.plan(move |_| {
            let violation = check(&memory);
            if violation.is_some() {
                *violations.lock().unwrap() = violation;
            }
            if left.fetch_sub(1, Ordering::SeqCst) == 0 {
                let mut id_now = id.load(Ordering::SeqCst);
                while id_now == 0 {
                    std::thread::yield_now();
                    id_now = id.load(Ordering::SeqCst);
                }
                let _ = Command::new("kill").args(["-KILL", &id_now.to_string()]).status();
                // Half of the requests that it dies at are executed.
                return (last % 2 == 0).then_some(Fault::Error(500, "InternalError"));
            }
            None
        });
        let mut child = start(&bench, &args);
        process.store(child.id().into(), Ordering::SeqCst);
        let was_killed = !child.wait().unwrap().success();
        bench.server.heal();
        killed_at.extend(was_killed.then_some(last));
        assert_eq!(*seen.lock().unwrap(), None, "killed at {last} of {whole}");
        assert_eq!(check(&bench.memory), None, "killed at {last} of {whole}");
        let next = bench.report(&args);
        assert_eq!((next.rows, next.retries), (first.rows, 0));
        assert_eq!(check(&bench.memory), None);
        assert_eq!(bench.litter(), Vec::<String>::new(), "killed at {last} of {whole}");
        assert_eq!(bench.memory.keys("lab", "out/part-").len() as u64, next.sink.files);
    }
    assert!(killed_at.len() > 35, "{killed_at:?} of {whole}");
    // At random moments, too.
    for round in 0..10 {
        let mut child = start(&bench, &args);
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..400)));
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(check(&bench.memory), None, "round {round}");
    }
    bench.report(&args);
    assert_eq!(bench.litter(), Vec::<String>::new());
}

#[test]
fn nothing_secret_is_printed_however_much_is_logged() {
    let bench = Bench::new(2);
    let mut command = bench.command(&["s3://lab/in", "s3://lab/out", "--no-pca"]);
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    command.env("AWS_SESSION_TOKEN", "TOKEN42");
    let output = command.output().unwrap();
    assert!(output.status.success());
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!text.contains(SECRET_KEY) && !text.contains("TOKEN42"), "{text}");
    assert!(!text.contains(ACCESS_KEY), "{text}");
}

#[test]
fn csv_and_tables_are_written_to_and_read_from_s3() {
    let bench = Bench::new(12);
    let to = |out: &str| format!("s3://lab/{out}");
    let report = bench.report(&["s3://lab/in", &to("csv"), "--format", "csv", "--files", "3"]);
    let csv = |out: &str| -> Vec<String> {
        let keys = bench.memory.keys("lab", &format!("{out}/part-"));
        keys.into_iter().filter(|key| key.contains(".csv")).collect()
    };
    assert_eq!((report.sink.files, csv("csv").len()), (3, 3));
    // Another run of the same kind is added, one of another refused.
    let model = bench.root.path().join("m.json");
    let model = model.to_str().unwrap();
    let first = bench.extract(&["s3://lab/in", &to("fit"), "--save-model", model]);
    assert!(first.status.success());
    let again = |format: &'static str, mode: &'static str| {
        let args = ["s3://lab/in", "s3://lab/again", "--format", format, "--model", model];
        bench.extract(&[&args[..], &["--mode", mode]].concat())
    };
    assert!(again("csv", "error").status.success());
    assert!(again("csv", "append").status.success());
    assert_eq!((csv("again").len(), bench.memory.keys("lab", "again/_images/").len()), (2, 2));
    let refused = again("parquet", "append");
    assert!(!refused.status.success());
    assert_eq!(csv("again").len(), 2);
    // The vectors of a table in S3, and its images.
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
        command.current_dir(bench.root.path()).args(args).envs(bench.server.environment());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for table in ["csv", "fit"] {
        let (from, out) = (to(table), to(&format!("{table}-reduced")));
        let args = ["pca", &from, &out, "--column", "descriptor", "-k", "4"];
        let text = run(&[&args[..], &["--output-column", "four", "--json"]].concat());
        let reduced: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(reduced["rows"], report.rows);
    }
    let shape = ["--rows", "image", "--image-column", "--no-pca"];
    run(&[&["extract", "s3://lab/in", "s3://lab/photos"], &shape[..]].concat());
    let text = run(&["extract", "s3://lab/photos", "again", "--table", "--json"]);
    let images: RunReport = serde_json::from_str(&text).unwrap();
    assert_eq!((images.images, images.rows), (12, report.rows));
    // One object is a table, too.
    let key = bench.memory.keys("lab", "photos/part-").remove(0);
    let text = run(&["extract", &to(&key), "one", "--table", "--json"]);
    let images: RunReport = serde_json::from_str(&text).unwrap();
    assert_eq!(images.images, 12);
}
