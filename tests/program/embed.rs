//! The command `embed`, as a person or a script runs it.

#![cfg(all(feature = "cli", feature = "onnx"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float32Type;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::s3::{Memory, Server};
use testkit::{names, photos};

struct Bench {
    root: tempfile::TempDir,
}

fn network(name: &str) -> String {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", "onnx", name].iter().collect();
    path.to_str().unwrap().to_owned()
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        photos::write_photos(&root.path().join("in"), 2).unwrap();
        Self { root }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
        command.current_dir(self.root.path()).arg("embed").args(args);
        // Whoever runs the tests may have it.
        command.env_remove("ORT_DYLIB_PATH");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Embeds `in` by the small network.
    fn report(&self, out: &str, args: &[&str]) -> RunReport {
        let file = network("nhwc.onnx");
        let output = self.run(&[&["in", out, "--onnx", &file, "--json"], args].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && message.is_empty(), "{args:?}: {message}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn fails(&self, args: &[&str], says: &[&str]) {
        let before = names(self.root.path());
        let output = self.run(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {message}");
        for word in says {
            assert!(message.contains(word), "{args:?}: no {word:?} in: {message}");
        }
        assert_eq!(names(self.root.path()), before, "{args:?} left something");
    }
}

/// Paths and a column of vectors of a result of one file, and its notes.
fn read(folder: &Path, column: &str) -> (Vec<String>, Vec<Vec<f32>>, String) {
    let part = names(folder).into_iter().find(|name| name.starts_with("part-")).unwrap();
    let file = std::fs::File::open(folder.join(part)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let notes = format!("{:?}", reader.schema().metadata());
    let batch = reader.build().unwrap().next().unwrap().unwrap();
    let paths = batch["path"].as_string::<i32>().iter().map(|path| path.unwrap().to_owned());
    let vectors = batch[column].as_fixed_size_list();
    let values = vectors.values().as_primitive::<Float32Type>().values();
    let vectors = values.chunks(vectors.value_length() as usize).map(<[f32]>::to_vec);
    (paths.collect(), vectors.collect(), notes)
}

#[test]
fn a_row_for_each_image() {
    let bench = Bench::new();
    let report = bench.report("out", &[]);
    assert_eq!((report.images, report.rows, report.model.is_none()), (12, 12, true));
    let (paths, vectors, notes) = read(&bench.root.path().join("out"), "vector");
    assert!(paths.is_sorted() && paths.len() == 12);
    assert!(vectors.iter().all(|v| v.len() == 64 && v.iter().any(|&v| v != 0.0)));
    for note in ["sha256:", "bicubic", "pooled", "tract"] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    // Each option reaches the network.
    let mut seen = vec![vectors];
    for args in [
        ["--channels", "bgr"],
        ["--resize", "nearest"],
        ["--resize", "tensorflow"],
        ["--scale", "caffe"],
        ["--output", "maps"],
    ] {
        bench.report("other", &[&args[..], &["--mode", "overwrite"]].concat());
        let (_, vectors, _) = read(&bench.root.path().join("other"), "vector");
        assert!(!seen.contains(&vectors), "{args:?} has no effect");
        seen.push(vectors);
    }
    // 6 x 6 places of 64 numbers.
    assert_eq!(seen.last().unwrap()[0].len(), 2304);
    for args in [["--batch", "5"], ["--threads", "1"], ["--size", "24"], ["--size", "24x24"]] {
        bench.report("other", &[&args[..], &["--mode", "overwrite"]].concat());
        assert_eq!(read(&bench.root.path().join("other"), "vector").1, seen[0], "{args:?}");
    }
}

#[test]
fn components_on_request_and_a_model_of_the_same_network() {
    let bench = Bench::new();
    let report = bench.report("out", &["--pca", "5", "--save-model", "m.json"]);
    assert_eq!(report.model.unwrap().explained_variance_ratio.len(), 5);
    let out = bench.root.path().join("out");
    let again = bench.report("again", &["--model", "m.json"]);
    assert_eq!(again.rows, 12);
    let scores = |out: &Path| {
        let part = names(out).into_iter().find(|name| name.starts_with("part-")).unwrap();
        let bytes = std::fs::read(out.join(part)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
        reader.build().unwrap().next().unwrap().unwrap()
    };
    assert_eq!(scores(&out), scores(&bench.root.path().join("again")));
    let file = network("nhwc.onnx");
    let run = |args: &[&str], says: &[&str]| {
        bench.fails(&[&["in", "new", "--onnx", &file], args].concat(), says);
    };
    run(
        &["--model", "m.json", "--scale", "none"],
        &["scale: the model tf, this job none", "--force"],
    );
    run(&["--model", "m.json", "--output", "maps"], &["for rows of 64 elements, not of 2304"]);
    run(&["--pca", "65"], &["--pca", "1 to 64"]);
    run(&["--pca", "13"], &["12 rows for 13 components"]);
    run(&["--seed", "1"], &["--seed is for --pca"]);
    run(&["--save-model", "x.json"], &["--save-model is for --pca"]);
    run(&["--size", "25"], &["invalid size: 25", "24, as the network says"]);
    run(&["--size", "x"], &["--size", "128x96"]);
    run(&["--batch", "0"], &["invalid batch: 0", "1 to 1024"]);
    run(&["--output", "none"], &["invalid output: none", "maps, pooled"]);
    run(&["--onnx-backend", "onnxruntime"], &["onnxruntime"]);
    run(&["--mode", "append", "--no-such"], &["--no-such"]);
}

#[test]
fn a_network_that_is_none_changes_nothing() {
    let bench = Bench::new();
    std::fs::write(bench.root.path().join("x.onnx"), b"no network").unwrap();
    for (file, says) in [
        ("x.onnx", "cannot use the network x.onnx"),
        ("none.onnx", "cannot use the network none.onnx: No such file"),
        ("in", "cannot use the network in"),
    ] {
        bench.fails(&["in", "out", "--onnx", file], &[says]);
    }
    // A network of grey images.
    bench.fails(&["in", "out", "--onnx", &network("gray.onnx")], &["not that of rgb images"]);
    bench.fails(&["in", "out"], &["--onnx"]);
}

#[test]
fn an_image_whose_vector_is_not_finite_is_named_and_counted() {
    let bench = Bench::new();
    let image = |name: &str, pixel: [u8; 3]| {
        let bytes = [&b"P6 1 1 255\n"[..], &pixel].concat();
        std::fs::write(bench.root.path().join("in").join(name), bytes).unwrap();
    };
    image("black.ppm", [7, 0, 7]);
    image("good.ppm", [7, 7, 7]);
    let file = network("nan.onnx");
    let all = ["in", "out", "--onnx", &file, "--scale", "none", "--extensions", "ppm"];
    bench.fails(
        &all,
        &["cannot extract features from", "black.ppm", "element 1 of the output is inf"],
    );
    let output = bench.run(&[&all[..], &["--on-error", "record", "--json"]].concat());
    let report: RunReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report.rows, report.failed.len(), report.failed["inference"]), (1, 1, 1));
}

#[test]
fn photos_network_and_result_in_s3() {
    let bench = Bench::new();
    let memory = Memory::with_bucket("lab");
    for (i, path) in FsSource::new(bench.root.path().join("in")).open().unwrap().enumerate() {
        let object = path.unwrap().read().unwrap();
        memory.seed("lab", &format!("in/{i:03}.jpg"), object.bytes.to_vec());
    }
    memory.seed("lab", "models/net.onnx", std::fs::read(network("nhwc.onnx")).unwrap());
    let server = Server::start(&memory);
    let run = |args: &[&str]| {
        let output = bench.command(args).envs(server.environment()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let net = "s3://lab/models/net.onnx";
    assert_eq!(run(&["s3://lab/in", "s3://lab/out", "--onnx", net]), (Some(0), String::new()));
    assert_eq!(memory.objects("lab", "out/part-").len(), 1);
    assert_eq!(run(&["in", "out", "--onnx", net]), (Some(0), String::new()));
    bench.report("local", &[]);
    let read = |out| read(&bench.root.path().join(out), "vector").1;
    assert_eq!(read("out"), read("local"));
    for (net, says) in [
        ("s3://lab/models/none.onnx", "s3://lab/models/none.onnx"),
        ("s3://lab/models", "s3://lab/models"),
        ("s3://lab/in/000.jpg", "cannot use the network s3://lab/in/000.jpg"),
    ] {
        let (code, message) = run(&["in", "new", "--onnx", net]);
        assert!(code == Some(1) && message.contains(says), "{message}");
    }
    assert!(!bench.root.path().join("new").exists());
}
