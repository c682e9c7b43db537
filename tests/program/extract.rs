//! The command line, as a person or a script runs it.
#![cfg(feature = "cli")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_array::RecordBatch;
use bytes::Bytes;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::photos;
use testkit::{names, simd_levels};

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    /// A folder with sample photos in `in`.
    fn new(per_kind: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        photos::write_photos(&root.path().join("in"), per_kind).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The command `extract` with these arguments, to run in the root folder.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
        command.current_dir(self.root.path()).arg("extract").args(args);
        command
    }

    /// Runs `extract in out` with more arguments, in the root folder.
    fn extract(&self, args: &[&str]) -> Output {
        self.command(&[&["in", "out"], args].concat()).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.extract(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Expects a failure whose message contains all of `says`, and which leaves no files.
    fn fails(&self, args: &[&str], says: &[&str]) {
        let before = names(self.root.path());
        let output = self.extract(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} succeeded");
        assert!(output.status.code().is_some_and(|c| c != 101), "{args:?} panicked: {message}");
        assert!(output.stdout.is_empty());
        for word in says {
            assert!(message.contains(word), "{args:?}: no {word:?} in: {message}");
        }
        assert_eq!(names(self.root.path()), before, "{args:?} left something");
    }

    fn report(&self, args: &[&str]) -> RunReport {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).unwrap()
    }
}

fn rows(folder: &Path) -> usize {
    let parts = names(folder).into_iter().filter(|n| n.starts_with("part-"));
    parts
        .map(|name| {
            let file = File::open(folder.join(name)).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            reader.metadata().file_metadata().num_rows() as usize
        })
        .sum()
}

#[test]
fn the_main_job_and_its_summary() {
    let bench = Bench::new(5);
    let summary = bench.ok(&[]);
    for word in ["images", "30", "rows", "components", "randomized, seed 0", "in out", "images/s"] {
        assert!(summary.contains(word), "no {word:?} in {summary}");
    }
    assert_eq!(names(&bench.path("out")).len(), 3);
    assert!(rows(&bench.path("out")) > 100);
}

#[test]
fn the_report_is_one_json_object() {
    let bench = Bench::new(3);
    let report = bench.report(&["--pca", "5", "--threads", "1", "--rows-per-file", "50"]);
    assert_eq!((report.images, report.decoded, report.threads), (18, 18, 1));
    assert_eq!(report.rows as usize, rows(&bench.path("out")));
    assert_eq!(report.sink.files, report.rows.div_ceil(50));
    assert_eq!(report.model.unwrap().explained_variance_ratio.len(), 5);
}

#[test]
fn components_by_the_share_of_the_variance() {
    let bench = Bench::new(4);
    let all = bench.report(&["--pca", "32"]).model.unwrap();
    for (name, share) in [("90%", 0.9), ("95%", 0.95), ("99%", 0.99)] {
        let k = all.components_for[name];
        let sum = |k: usize| all.explained_variance_ratio.iter().take(k).sum::<f64>();
        assert!(sum(k) >= share && sum(k - 1) < share, "{name}: {k}");
        let text = share.to_string();
        let args = ["--pca", &text, "--mode", "overwrite"];
        let model = bench.report(&args).model.unwrap();
        assert_eq!((model.n_components, &model.solver), (k, &Solver::Covariance));
        assert!(bench.ok(&args).contains(&format!("for {name}")));
    }
    bench.fails(&["--pca", "1.5"], &["--pca", "0.95"]);
    bench.fails(&["--pca", "0"], &["--pca", "1 to 32"]);
    bench.fails(&["--pca", "0.9", "--seed", "1"], &["--seed has no part in --pca 0.9"]);
}

/// A JPEG with metadata that ask for a quarter turn.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let len = (2 + 6 + tiff.len()) as u16;
    [&jpeg[..2], b"\xff\xe1", &len.to_be_bytes(), b"Exif\0\0", tiff, &jpeg[2..]].concat()
}

#[test]
fn every_parameter_has_its_effect() {
    let bench = Bench::new(3);
    // A photo that is to be turned.
    let upright = fs::read(bench.path("in/apple/000.jpg")).unwrap();
    fs::write(bench.path("in/apple/turned.jpg"), turned(&upright)).unwrap();
    let base = bench.report(&["--mode", "overwrite"]);
    let file = |bench: &Bench| {
        let out = bench.path("out");
        let name = names(&out).into_iter().find(|n| n.starts_with("part-")).unwrap();
        fs::read(out.join(name)).unwrap()
    };
    let batches = |bytes: &[u8]| -> Vec<RecordBatch> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(bytes));
        reader.unwrap().build().unwrap().map(Result::unwrap).collect()
    };
    let content = file(&bench);
    for args in [
        &["--n-features", "5"][..],
        &["--scale-factor", "1.5"],
        &["--n-levels", "1"],
        &["--edge-threshold", "10"],
        &["--first-level", "1"],
        &["--wta-k", "3"],
        &["--score-type", "fast"],
        &["--patch-size", "21"],
        &["--fast-threshold", "40"],
        &["--gray", "luma"],
        &["--pca", "7"],
        &["--no-pca"],
        &["--center", "none"],
        &["--label", "none"],
        &["--label", "segment:0", "--glob", "apple/*"],
        &["--exif", "ignore"],
    ] {
        bench.ok(&[&["--mode", "overwrite"], args].concat());
        assert_ne!(batches(&file(&bench)), batches(&content), "{args:?} changed nothing");
    }
    // The effect of these is below the 32-bit precision of the scores, or does not show on these photos; but
    // the model or the parameters in the footer differ.
    for args in [["--compat", "pypi-4.6-nofma"], ["--solver", "covariance"], ["--seed", "9"]] {
        bench.ok(&[&["--mode", "overwrite"], &args[..]].concat());
        assert_ne!(file(&bench), content, "{args:?} changed nothing");
    }
    // The same parameters give the same file on any number of threads.
    for threads in ["1", "3"] {
        bench.ok(&["--mode", "overwrite", "--threads", threads]);
        assert_eq!(file(&bench), content);
    }
    let again = bench.report(&["--mode", "append"]);
    assert_eq!(again.rows, base.rows);
    assert_eq!(rows(&bench.path("out")) as u64, 2 * base.rows);
}

#[test]
fn the_instruction_set_changes_no_byte() {
    let bench = Bench::new(6);
    let mut written = Vec::new();
    for simd in simd_levels() {
        for threads in ["1", "3"] {
            let simd = simd.to_string();
            bench.ok(&["--simd", &simd, "--threads", threads, "--mode", "overwrite"]);
            let out = bench.path("out");
            let parts = names(&out).into_iter().filter(|n| n.starts_with("part-"));
            written.push(parts.map(|n| fs::read(out.join(n)).unwrap()).collect::<Vec<_>>());
        }
    }
    assert!(written.iter().all(|parts| parts.len() == 1 && *parts == written[0]));
    fs::remove_dir_all(bench.path("out")).unwrap();
    bench.fails(&["--simd", "mmx"], &["mmx", "auto, scalar, avx2 or avx512"]);
}

#[test]
fn a_model_is_saved_and_used_again() {
    let bench = Bench::new(3);
    bench.ok(&["--save-model", "model.json", "--pca", "4"]);
    let model = PcaModel::load(bench.path("model.json")).unwrap();
    assert_eq!(model.n_components(), 4);
    let report =
        bench.report(&["--mode", "overwrite", "--model", "model.json", "--center", "none"]);
    assert_eq!(report.model.unwrap().n_rows, model.n_rows());
    bench.fails(&["--mode", "overwrite", "--model", "none.json"], &["none.json"]);
    fs::write(bench.path("bad.json"), "{}").unwrap();
    bench.fails(&["--mode", "overwrite", "--model", "bad.json"], &["bad.json"]);
    bench.fails(&["--mode", "overwrite", "--save-model", "no/such/m.json"], &["no/such/m.json"]);
    let mut moments = Moments::new(31);
    let rows = ndarray::Array2::from_shape_fn((90, 31), |(i, j)| (i * j * 31 % 255) as u8);
    moments.push_rows(rows.view()).unwrap();
    moments.fit(&PcaParams::new(4)).unwrap().save(bench.path("short.json")).unwrap();
    bench.fails(&["--mode", "overwrite", "--model", "short.json"], &["short.json", "31 elements"]);
}

#[test]
fn a_model_is_not_saved_inside_the_output() {
    let bench = Bench::new(3);
    bench.ok(&[]);
    let inside = ["out/model.json", "./out/../out/model.json", "out/_errors/model.json"];
    fs::create_dir(bench.path("out/_errors")).unwrap();
    for path in inside {
        let args = ["--mode", "overwrite", "--save-model", path];
        bench.fails(&args, &[path, "not part of a result"]);
        // The same folder by the way of one that is missing.
        let output =
            bench.command(&[&["in", "missing/../out"][..], &args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("not part of a result"));
    }
    // Beside the folders of a time, a file is in nobody's way.
    bench.ok(&["--timestamped", "--save-model", "out/beside.json"]);
    fs::remove_file(bench.path("out/beside.json")).unwrap();
    for entry in fs::read_dir(bench.path("out")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().ends_with('Z') {
            fs::remove_dir_all(path).unwrap();
        }
    }
    #[cfg(unix)]
    for (to, link) in [("out/model.json", "link.json"), ("link.json", "links.json")] {
        std::os::unix::fs::symlink(to, bench.path(link)).unwrap();
        bench.fails(&["--mode", "overwrite", "--save-model", link], &[link]);
    }
    bench.ok(&["--mode", "overwrite", "--save-model", "outer.json"]);
    bench.ok(&["--mode", "overwrite"]);
    assert_eq!(names(&bench.path("out")).len(), 3);
}

#[test]
fn bad_parameters_are_named() {
    let bench = Bench::new(1);
    for (args, says) in [
        (&["--n-features", "0"][..], &["--n-features", "0"][..]),
        (&["--n-features=-3"], &["--n-features", "-3"]),
        (&["--n-features", "99999999999"], &["--n-features"]),
        (&["--scale-factor", "1.0"], &["--scale-factor: ", "above 1"]),
        (&["--scale-factor", "-2"], &["scale_factor", "-2"]),
        (&["--scale-factor", "nan"], &["scale_factor"]),
        (&["--n-levels", "0"], &["n_levels", "1 to"]),
        (&["--edge-threshold", "4000000000"], &["edge_threshold"]),
        (&["--first-level", "4000000000"], &["first_level"]),
        (&["--wta-k", "5"], &["wta_k", "2 to 4"]),
        (&["--patch-size", "1"], &["patch_size"]),
        (&["--fast-threshold", "256"], &["--fast-threshold", "256"]),
        (&["--score-type", "best"], &["--score-type", "harris"]),
        (&["--pca", "33"], &["--pca: ", "33", "1 to 32"]),
        (&["--pca", "0"], &["n_components", "0"]),
        (&["--label", "child"], &["child", "segment:N"]),
        (&["--glob", "a{b"], &["a{b"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--rows-per-file", "0"], &["--rows-per-file"]),
        (&["--seed", "1", "--solver", "covariance"], &["--seed"]),
        (&["--seed", "1", "--solver", "auto"], &["--seed", "auto"]),
        (&["--max-failures", "5x", "--on-error", "skip"], &["--max-failures", "5x"]),
        (&["--max-failures", "3"], &["--max-failures", "--on-error skip or record"]),
        (&["--allow-empty"], &["--allow-empty", "--on-error skip or record"]),
        (&["--force"], &["--force", "--model"]),
        (&["--max-keypoints", "0"], &["--max-keypoints"]),
        (&["--seed", "1", "--no-pca"], &["--seed", "--no-pca"]),
        (&["--pca", "3", "--no-pca"], &["--pca", "--no-pca"]),
        (&["--first-level", "1000"], &["would be too large"]),
    ] {
        bench.fails(args, says);
    }
    #[cfg(not(feature = "opencv"))]
    bench.fails(&["--backend", "opencv"], &["feature `opencv`"]);
}

#[test]
#[cfg(feature = "opencv")]
fn the_opencv_backend_is_interchangeable() {
    let bench = Bench::new(4);
    let native = bench.report(&["--compat", "debian-4.6", "--mode", "overwrite"]);
    let opencv = bench.report(&["--backend", "opencv", "--mode", "overwrite"]);
    assert_eq!((native.rows, native.model), (opencv.rows, opencv.model));
    bench.fails(&["--backend", "opencv", "--compat", "debian-4.6"], &["--compat"]);
}

#[test]
fn bad_input_is_named() {
    let bench = Bench::new(1);
    bench.fails(&["--glob", "*.png"], &["in", "*.png", "6 files"]);
    fs::rename(bench.path("in"), bench.path("elsewhere")).unwrap();
    bench.fails(&[], &["cannot list in", "No such file"]);
    fs::create_dir(bench.path("in")).unwrap();
    bench.fails(&[], &["no image in in"]);
    bench.fails(&["--on-error", "skip"], &["no image in in"]);
    let missing = bench.extract(&["--model", "none.json"]);
    assert!(!String::from_utf8_lossy(&missing.stderr).contains("--on-error"));
    // One photo has too few rows for its components.
    fs::copy(bench.path("elsewhere/apple/000.jpg"), bench.path("in/a.jpg")).unwrap();
    bench.fails(&["--edge-threshold", "45"], &["rows for 20 components", "--no-pca"]);
}

#[test]
fn failing_images_end_the_job_or_are_left_out_or_recorded() {
    let bench = Bench::new(3);
    let good = bench.report(&["--mode", "overwrite"]);
    let jpeg = fs::read(bench.path("in/apple/000.jpg")).unwrap();
    fs::write(bench.path("in/apple/half.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(bench.path("in/apple/text.jpg"), "text").unwrap();
    fs::write(bench.path("in/apple/zero.jpg"), "").unwrap();
    bench.fails(&["--mode", "overwrite"], &["in/apple/half.jpg", "--on-error"]);
    assert_eq!(rows(&bench.path("out")) as u64, good.rows, "the old result stands");

    let skipped = bench.report(&["--mode", "overwrite", "--on-error", "skip"]);
    assert_eq!((skipped.rows, skipped.images, skipped.decoded), (good.rows, 21, 18));
    assert_eq!(skipped.failed.values().sum::<u64>(), 3);
    assert!(!bench.path("out/_errors").exists());
    let recorded = bench.report(&["--mode", "overwrite", "--on-error", "record"]);
    assert_eq!((recorded.rows, recorded.sink.failures), (good.rows, 3));
    assert_eq!(rows(&bench.path("out/_errors")), 3);
    let summary = bench.ok(&["--mode", "overwrite", "--on-error", "skip"]);
    assert!(summary.contains("left out: cannot decode in/apple/half.jpg"), "{summary}");
}

#[test]
#[cfg(target_os = "linux")]
fn odd_names_are_kept_or_recorded() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let bench = Bench::new(0);
    let jpeg = photos::photo(1, 1).unwrap();
    let odd = "Été 100%+ #1/a b'c\"d.jpg";
    fs::create_dir_all(bench.path("in/Été 100%+ #1")).unwrap();
    fs::write(bench.path("in").join(odd), &jpeg).unwrap();
    fs::write(bench.path("in").join(OsStr::from_bytes(b"b\xff.jpg")), &jpeg).unwrap();
    bench.fails(&["--no-pca"], &["b\\xFF.jpg", "UTF-8"]);
    let report = bench.report(&["--no-pca", "--on-error", "record"]);
    assert_eq!((report.images, report.decoded, report.failed["not_utf8"]), (2, 1, 1));
    let part = names(&bench.path("out")).into_iter().find(|n| n.starts_with("part-")).unwrap();
    let file = File::open(bench.path("out").join(part)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = reader.map(Result::unwrap).next().unwrap();
    let text = |i: usize| {
        arrow_array::cast::AsArray::as_string::<i32>(batch.column(i)).value(0).to_owned()
    };
    assert_eq!((text(0), text(1)), (format!("in/{odd}"), "Été 100%+ #1".to_owned()));
}

#[test]
fn an_output_in_the_way_is_named() {
    let bench = Bench::new(2);
    bench.ok(&[]);
    bench.fails(&[], &["out", "overwrite", "append"]);
    fs::remove_dir_all(bench.path("out")).unwrap();
    fs::write(bench.path("out"), "a file").unwrap();
    bench.fails(&["--mode", "overwrite"], &["out"]);
    fs::remove_file(bench.path("out")).unwrap();
    fs::create_dir(bench.path("out")).unwrap();
    fs::write(bench.path("out/thesis.tex"), "dear").unwrap();
    bench.fails(&["--mode", "overwrite"], &["thesis.tex"]);
    bench.fails(&[], &["out"]);
}

/// Under a limit on the size of files, writes fail as on a full disk.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fills_up_is_named_and_leaves_nothing() {
    let bench = Bench::new(6);
    let program = env!("CARGO_BIN_EXE_orb-features");
    for args in ["", "--no-pca", "--rows-per-file 40"] {
        let script = format!("trap '' XFSZ; ulimit -f 4; exec {program} extract in out {args}");
        let output = Command::new("bash")
            .current_dir(bench.root.path())
            .args(["-c", &script])
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("part-0000") && message.contains("File too large"), "{message}");
        assert_eq!(names(bench.root.path()), ["in"]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_read_only_output_is_named() {
    // Not even root can make a folder here.
    let bench = Bench::new(1);
    let output = Command::new(env!("CARGO_BIN_EXE_orb-features"))
        .args(["extract", bench.path("in").to_str().unwrap(), "/proc/self/out"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("/proc/self"), "{message}");
}

#[test]
#[cfg(unix)]
fn an_interrupt_cleans_up() {
    use std::os::unix::process::ExitStatusExt as _;
    let bench = Bench::new(60);
    for signal in ["-INT", "-TERM"] {
        // Slow enough to be interrupted: thousands of features on enlarged images.
        let slow = ["--n-features", "5000", "--first-level", "12", "--edge-threshold", "5"];
        let child = bench
            .command(&[&["in", "out"], &slow[..]].concat())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It is under way once its hidden folder is there.
        while names(bench.root.path()).len() == 1 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(130), None));
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        assert_eq!(names(bench.root.path()), ["in"]);
    }
}

#[test]
fn options_for_folders_are_refused_with_a_single_file() {
    let bench = Bench::new(1);
    for option in [&["--glob", "*"][..], &["--extensions", "jpg"], &["--one-level"]] {
        let args = [&["in/apple/000.jpg", "out", "--no-pca"], option].concat();
        let output = bench.command(&args).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(option[0]) && message.contains("is a file"), "{message}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_goes_through_a_link_and_a_lost_report_is_an_error() {
    let bench = Bench::new(2);
    fs::write(bench.path("model.json"), b"old").unwrap();
    std::os::unix::fs::symlink("model.json", bench.path("link.json")).unwrap();
    bench.ok(&["--save-model", "link.json"]);
    assert!(bench.path("link.json").is_symlink());
    PcaModel::load(bench.path("model.json")).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = bench.command(&["in", "out2", "--json"]).stdout(full).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write the report"), "{message}");
    assert!(bench.path("out2/_SUCCESS").exists());
}

#[test]
fn a_job_of_which_every_image_fails_leaves_the_old_result() {
    let bench = Bench::new(2);
    let good = bench.report(&[]);
    let before = names(&bench.path("out"));
    for entry in fs::read_dir(bench.path("in")).unwrap() {
        for photo in fs::read_dir(entry.unwrap().path()).unwrap() {
            fs::write(photo.unwrap().path(), "no photo any more").unwrap();
        }
    }
    for more in [&[][..], &["--no-pca"]] {
        for policy in ["skip", "record"] {
            let args = [&["--mode", "overwrite", "--on-error", policy], more].concat();
            let says =
                ["all 12 images failed (not_an_image 12)", "in/apple/000.jpg", "--allow-empty"];
            bench.fails(&args, &says);
            assert_eq!(bench.extract(&args).status.code(), Some(1));
            assert_eq!(names(&bench.path("out")), before);
        }
    }
    assert_eq!(rows(&bench.path("out")) as u64, good.rows);
    let args = ["--mode", "overwrite", "--on-error", "record", "--no-pca", "--allow-empty"];
    let empty = bench.report(&args);
    assert_eq!((empty.rows, empty.sink.failures), (0, 12));
    assert_eq!(rows(&bench.path("out")), 0);
    // Photos without a feature are no failures.
    let flat = [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat();
    fs::remove_dir_all(bench.path("in")).unwrap();
    fs::create_dir(bench.path("in")).unwrap();
    fs::write(bench.path("in/flat.pgm"), flat).unwrap();
    let args = ["--mode", "overwrite", "--on-error", "record", "--no-pca"];
    assert_eq!(bench.report(&args).without_features, 1);
}

#[test]
fn more_failures_than_allowed_end_the_job() {
    let bench = Bench::new(2);
    fs::write(bench.path("in/apple/half.jpg"), "text").unwrap();
    fs::write(bench.path("in/plum/zero.jpg"), "").unwrap();
    let skip = ["--on-error", "skip", "--max-failures"];
    let says =
        ["2 of 14 images failed (empty 1, not_an_image 1)", "limit of 1;", "in/apple/half.jpg"];
    bench.fails(&[&skip[..], &["1"]].concat(), &says);
    bench.fails(&[&skip[..], &["14%"]].concat(), &["2 of 14", "limit of 14%;"]);
    assert_eq!(bench.extract(&[&skip[..], &["14%"]].concat()).status.code(), Some(1));
    bench.ok(&[&skip[..], &["15%", "--mode", "overwrite"]].concat());
    bench.ok(&[&skip[..], &["2", "--mode", "overwrite"]].concat());
}

#[test]
fn a_model_or_a_result_of_other_features_is_refused_unless_forced() {
    let bench = Bench::new(3);
    bench.ok(&["--save-model", "model.json", "--fast-threshold", "5"]);
    let model = ["--mode", "append", "--model", "model.json"];
    let says = ["model.json", "fast_threshold: the model 5, this job 20", "--force"];
    bench.fails(&model, &says);
    let luma = [&model[..], &["--fast-threshold", "5", "--gray", "luma"]].concat();
    bench.fails(&luma, &["gray_mode: the model bgr, this job luma"]);
    // Limits, threads and instruction sets do not change the features.
    let same = ["--fast-threshold", "5", "--threads", "1", "--simd", "scalar"];
    let limit = ["--max-keypoints", "5000"];
    let once = bench.report(&[&model[..], &same, &limit].concat()).rows;
    assert_eq!(rows(&bench.path("out")) as u64, 2 * once);
    // Files of other features, or of another fit, cannot be added to a result.
    let says = ["out", "fast_threshold: there 5, in this job 20"];
    bench.fails(&["--mode", "append"], &says);
    fs::remove_file(bench.path("in/apple/000.jpg")).unwrap();
    bench.fails(&["--mode", "append", "--fast-threshold", "5"], &["another fit", "--model"]);
    let center = [&model[..], &["--fast-threshold", "5", "--center", "none"]].concat();
    bench.fails(&center, &["center: there mean, in this job none"]);
    assert_eq!(rows(&bench.path("out")) as u64, 2 * once);
    let forced = bench.report(&[&model[..], &["--force"]].concat());
    assert!(forced.rows < once);
    assert_eq!(rows(&bench.path("out")) as u64, 2 * once + forced.rows);
    // The first rows decide, whatever name the forced file has.
    let parts = || -> Vec<PathBuf> {
        let names = names(&bench.path("out")).into_iter().filter(|name| name.starts_with("part-"));
        names.map(|name| bench.path("out").join(name)).collect()
    };
    for run in ["0", "f"] {
        let forced = parts().into_iter().max_by_key(|p| p.metadata().unwrap().modified().unwrap());
        let name = format!("part-00000-{}.parquet", run.repeat(32));
        fs::rename(forced.unwrap(), bench.path("out").join(name)).unwrap();
        bench.fails(&model, &["fast_threshold: the model 5, this job 20"]);
        bench
            .fails(&["--mode", "append", "--no-pca"], &["fast_threshold: there 5, in this job 20"]);
    }
}

#[test]
fn an_image_of_ties_beyond_the_limit_is_an_error_of_its_own() {
    let bench = Bench::new(2);
    let side = 700;
    let dot = |i: usize| if i % side % 10 == 5 && i / side % 10 == 5 { 255 } else { 0 };
    let pgm = [format!("P5 {side} {side} 255\n").into_bytes(), (0..side * side).map(dot).collect()];
    fs::write(bench.path("in/dots.pgm"), pgm.concat()).unwrap();
    let all = bench.report(&["--mode", "overwrite"]);
    assert!(all.rows > 4_000);
    let limit = ["--mode", "overwrite", "--max-keypoints", "1000"];
    bench.fails(&limit, &["in/dots.pgm", "more than the 1000 allowed", "--on-error"]);
    let left = bench.report(&[&limit[..], &["--on-error", "skip"]].concat());
    assert_eq!((left.decoded, left.failed["too_many_keypoints"]), (12, 1));
    assert!(left.rows > 0 && left.rows < 1_000);
}

/// Runs a command in the root folder; its output, and whether it succeeded.
fn run(bench: &Bench, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
    let output = command.current_dir(bench.root.path()).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_timestamped_result_is_a_new_folder_each_time() {
    let bench = Bench::new(1);
    bench.ok(&["--timestamped"]);
    let [name] = &names(&bench.path("out"))[..] else { panic!("one result") };
    let digits = name.replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(digits, "0000-00-00T00-00-00Z");
    assert!(bench.path("out").join(name).join("_SUCCESS").exists());
    let before = rows(&bench.path("out").join(name));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    bench.ok(&["--timestamped"]);
    let results = names(&bench.path("out"));
    assert_eq!((results.len(), &results[0]), (2, name));
    assert_eq!(rows(&bench.path("out").join(&results[1])), before);
}

#[test]
fn pixels_of_resized_photos_are_rows() {
    let bench = Bench::new(2);
    let (good, text) = run(&bench, &["pixels", "in", "out", "--size", "8x6", "--pca", "2"]);
    assert!(good, "{text}");
    assert_eq!(rows(&bench.path("out")), 12);
    let (good, text) = run(&bench, &["pixels", "in", "no", "--size", "0"]);
    assert!(!good && text.contains("size") && !bench.path("no").exists(), "{text}");
}

#[test]
fn a_table_is_taken_as_images_and_as_vectors() {
    let bench = Bench::new(2);
    let (good, text) = run(
        &bench,
        &[
            "pixels",
            "in",
            "t",
            "--size",
            "8",
            "--rows",
            "image",
            "--image-column",
            "--layout",
            "spark",
        ],
    );
    assert!(good, "{text}");
    // The pixels of the photos, once more.
    bench.ok(&["--no-pca"]);
    let (good, text) = run(&bench, &["extract", "t", "again", "--table", "--no-pca"]);
    assert!(good, "{text}");
    assert_eq!(rows(&bench.path("again")), rows(&bench.path("out")));
    let (good, text) = run(&bench, &["pixels", "in", "v", "--size", "8", "--layout", "spark"]);
    assert!(good, "{text}");
    let pca = ["pca", "v", "p", "--column", "vector", "-k", "3", "--format", "csv", "--files", "2"];
    let (good, text) = run(&bench, &[&pca[..], &["--save-model", "m.json"]].concat());
    assert!(good && text.contains("12 of 64 elements"), "{text}");
    let csv = names(&bench.path("p")).into_iter().filter(|name| name.contains(".csv")).count();
    assert_eq!(csv, 2);
    let onto = ["pca", "v", "q", "--column", "vector", "--model", "m.json", "--json"];
    let (good, text) = run(&bench, &onto);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(good && report["rows"] == 12 && report["model"]["n_components"] == 3, "{text}");
    for (args, says) in [
        (&["extract", "t", "x", "--table", "--column", "label"][..], "not images"),
        (&["extract", "t", "x", "--table", "--glob", "*"], "--glob has no part in --table"),
        (&["extract", "t", "x", "--column", "image"], "--table"),
        (&["pca", "v", "x", "--column", "path"], "row 0 is no vector"),
        (&["pca", "v", "x", "--column", "vector", "--pca", "65"], "1 to 64"),
        (&["pca", "v", "x", "--column", "vector", "--no-pca"], "nothing to do"),
        (&["pca", "p", "x", "--column", "vector"], "a column \"pca\" already"),
        (&["pca", "none", "x", "--column", "vector"], "none"),
        (&["pca", "v", "x"], "--column"),
        (&["extract", "in", "x", "--format", "csv", "--layout", "spark"], "format"),
        (&["extract", "in", "x", "--image-column"], "--image-column"),
        (
            &["extract", "in", "x", "--image-column", "--rows", "image", "--format", "csv"],
            "--image-column",
        ),
        (&["extract", "in", "x", "--rows", "padded:x"], "padded:N"),
        (&["extract", "in", "x", "--files", "2", "--rows-per-file", "9"], "--files"),
        (
            &["pixels", "in", "x", "--resize", "tensorflow", "--pca-input", "bits", "--pca", "2"],
            "--pca-input",
        ),
        (&["extract", "in", "x", "--pca-input", "bits", "--no-pca"], "--pca-input"),
        (&["extract", "in", "x", "--rows", "padded:1000000"], "padded:N of 1 to 524288"),
        (&["extract", "in", "x", "--timestamped", "--mode", "append"], "--mode has no part"),
        (
            &["pca", "v", "x", "--column", "vector", "--timestamped", "--mode", "overwrite"],
            "--mode",
        ),
    ] {
        let (good, text) = run(&bench, args);
        assert!(!good && text.contains(says), "{args:?}: {text}");
        assert!(!bench.path("x").exists());
    }
}
