//! The commands that read results, as a person or a script runs them.
#![cfg(feature = "cli")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use testkit::photos;

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    /// A folder with sample photos in `in`, and their result in `out`.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        photos::write_photos(&root.path().join("in"), 6).unwrap();
        let bench = Self { root };
        bench.ok(&["extract", "in", "out", "--n-features", "100", "--edge-threshold", "15"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orb-features"));
        command.current_dir(self.root.path()).args(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Expects a failure with this status, whose message contains all of `says`.
    fn fails(&self, args: &[&str], status: i32, says: &[&str]) {
        let output = self.run(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {message}");
        for word in says {
            assert!(message.contains(word), "{args:?}: no {word:?} in: {message}");
        }
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }
}

#[test]
fn keypoints_are_drawn_from_photos_and_from_results() {
    let bench = Bench::new();
    let orb = ["--n-features", "100", "--edge-threshold", "15"];
    let said = bench.ok(&[&["draw", "in/apple/000.jpg", "-o", "a.svg"], &orb[..]].concat());
    assert!(
        said.starts_with("a.svg: ") && said.contains("keypoints of in/apple/000.jpg"),
        "{said}"
    );
    let svg = fs::read_to_string(bench.path("a.svg")).unwrap();
    let n: usize = said.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(svg.matches("<circle").count(), 2 * n);
    bench.ok(&["draw", "in/apple/000.jpg", "-o", "b.svg", "--result", "out"]);
    assert_eq!(fs::read_to_string(bench.path("b.svg")).unwrap(), svg);
    bench.ok(&["draw", "in/apple/000.jpg", "-o", "a.PNG", "--scale", "2"]);
    let png = image::open(bench.path("a.PNG")).unwrap();
    assert_eq!((png.width(), png.height()), (200, 200));
    // Several, of which one is broken: the others are drawn.
    fs::write(bench.path("torn.jpg"), [0xff, 0xd8, 0, 0]).unwrap();
    bench.fails(
        &["draw", "in/apple/000.jpg", "torn.jpg", "in/kiwi/001.jpg", "-o", "d"],
        1,
        &["torn.jpg", "not all"],
    );
    assert_eq!(testkit::names(&bench.path("d")), ["000-000.png", "002-001.png"]);
    // No photo is drawn over before it is read.
    fs::copy(bench.path("in/kiwi/001.jpg"), bench.path("d/001-b.png")).unwrap();
    fs::copy(bench.path("in/kiwi/001.jpg"), bench.path("b.jpg")).unwrap();
    let over = ["draw", "d/001-b.png", "b.jpg", "-o", "d"];
    bench.fails(&over, 2, &["001-b.png", "not written over"]);
    bench.fails(&["draw", "in/apple/000.jpg", "-o", "a.gif"], 2, &["a.gif", ".png or .svg"]);
    bench.fails(&["draw", "in/apple", "-o", "a.png"], 1, &["in/apple", "one photo"]);
    bench.fails(&["draw", "gone.jpg", "-o", "a.png"], 1, &["gone.jpg"]);
    let result = ["-o", "a.png", "--result", "out"];
    bench.fails(
        &[&["draw", "torn.jpg"], &result[..]].concat(),
        1,
        &["torn.jpg", "out", "no features"],
    );
    // However its path is written.
    bench.ok(&["draw", "./in/../in/apple/000.jpg", "-o", "c.svg", "--result", "out"]);
    assert_eq!(fs::read_to_string(bench.path("c.svg")).unwrap(), svg);
    fs::copy(bench.path("a.PNG"), bench.path("own.png")).unwrap();
    bench.fails(&["draw", "own.png", "-o", "own.png"], 2, &["own.png", "not written over"]);
    bench.fails(&["draw", "own.png", "a.PNG", "-o", "new.png"], 2, &["new.png", "folder"]);
    bench.ok(&["pixels", "in", "pixels", "--size", "4"]);
    let of_pixels = ["draw", "in/apple/000.jpg", "-o", "a.png", "--result", "pixels"];
    bench.fails(&of_pixels, 1, &["pixels", "no keypoints"]);
    bench.fails(&["draw", "in/apple/000.jpg", "-o", "no/where.png"], 1, &["no/where.png"]);
    bench.fails(&["draw", "in/apple/000.jpg", "-o", "a.png", "--result", "in"], 1, &["in"]);
    bench.fails(
        &["draw", "in/apple/000.jpg", "-o", "a.png", "--region", "x"],
        2,
        &["--region", "s3://"],
    );
}

#[test]
fn two_photos_are_matched_and_drawn() {
    let bench = Bench::new();
    // The same photo, 12 pixels to the right and 7 down.
    let photo = image::open(bench.path("in/kiwi/002.jpg")).unwrap().to_rgb8();
    let moved = image::RgbImage::from_fn(120, 120, |x, y| {
        let place = x.checked_sub(12).zip(y.checked_sub(7)).filter(|(x, y)| *x < 100 && *y < 100);
        place.map_or(image::Rgb([250; 3]), |(x, y)| *photo.get_pixel(x, y))
    });
    moved.save(bench.path("moved.png")).unwrap();
    fs::write(bench.path("truth.txt"), "1 0 12\n0, 1, 7\n0 0 1\n").unwrap();
    let args =
        ["match", "in/kiwi/002.jpg", "moved.png", "--edge-threshold", "10", "--truth", "truth.txt"];
    let found = bench.json(&[&args[..], &["--json", "-o", "m.png"]].concat());
    assert!(found["inliers"].as_u64().unwrap() >= 20, "{found}");
    assert!(found["corner_error"].as_f64().unwrap() < 1.0, "{found}");
    let matches = found["matches"].as_array().unwrap();
    let inliers = matches.iter().filter(|m| m["inlier"] == true).count();
    assert_eq!(inliers as u64, found["inliers"].as_u64().unwrap());
    assert!(image::open(bench.path("m.png")).unwrap().width() > 600);
    bench.fails(&["match", "gone.png", "moved.png", "-o", "m.gif"], 2, &["m.gif", ".png or .svg"]);
    let text = bench.ok(&args);
    assert!(text.contains("inliers") && text.contains("pixels off, in the mean"), "{text}");
    // Nothing to find.
    fs::write(bench.path("flat.pgm"), [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat())
        .unwrap();
    let text = bench.ok(&["match", "in/kiwi/002.jpg", "flat.pgm", "-o", "none.svg"]);
    assert!(text.contains("matches      0") && text.contains("homography   none"), "{text}");
    fs::write(bench.path("one.pgm"), b"P5 1 1 255\n\x07").unwrap();
    bench.fails(&["match", "in/kiwi/002.jpg", "one.pgm"], 1, &["one.pgm"]);
    fs::write(bench.path("eight.txt"), "1 0 12 0 1 7 0 0").unwrap();
    bench.fails(
        &["match", "moved.png", "moved.png", "--truth", "eight.txt"],
        2,
        &["eight.txt", "nine numbers"],
    );
    bench.fails(&["match", "moved.png", "moved.png", "--ratio", "2"], 2, &["ratio"]);
    bench.fails(&["match", "moved.png", "moved.png", "--threshold", "0"], 2, &["threshold"]);
}

#[test]
fn photos_are_found_by_an_index() {
    let bench = Bench::new();
    let made = bench.json(&["index", "out", "-o", "x", "--json"]);
    assert_eq!((made["photos"].as_u64(), made["lists"].as_u64()), (Some(36), Some(1)));
    let text = bench.ok(&["search", "x", "in/plum/003.jpg", "-k", "3"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("in/plum/003.jpg: ") && lines[1].contains("plum"), "{text}");
    assert!(lines[2].ends_with("plum  in/plum/003.jpg") && lines.len() == 5, "{text}");
    // A folder with a broken photo and a flat one between good ones.
    fs::create_dir(bench.path("odd")).unwrap();
    fs::copy(bench.path("in/plum/003.jpg"), bench.path("odd/1.jpg")).unwrap();
    fs::write(bench.path("odd/2.jpg"), [0xff, 0xd8, 0, 0]).unwrap();
    fs::write(bench.path("odd/3.pgm"), [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat())
        .unwrap();
    let output = bench.run(&["search", "x", "odd", "--json"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && lines.lines().count() == 2);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("odd/2.jpg") && errors.contains("1 of 3"), "{errors}");
    let nothing: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (nothing["keypoints"].as_u64(), &nothing["found"]["photos"]),
        (Some(0), &serde_json::json!([]))
    );
    let table = bench.ok(&["search", "x", "in", "--confusion"]);
    assert!(table.contains("right        36 of 36: 1.000"), "{table}");

    bench.fails(&["search", "x", "odd/2.jpg"], 1, &["odd/2.jpg"]);
    // A folder without photos keeps none of the others from being searched for.
    fs::create_dir(bench.path("nothing")).unwrap();
    let output = bench.run(&["search", "x", "nothing", "odd/1.jpg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("odd/1.jpg: "));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing"));
    bench.fails(&["search", "gone", "odd/1.jpg"], 1, &["gone"]);
    bench.fails(&["search", "odd/1.jpg", "odd/1.jpg"], 1, &["odd/1.jpg", "no index"]);
    bench.fails(&["search", "x", "odd/1.jpg", "--ratio", "0"], 2, &["ratio"]);
    bench.fails(&["index", "out", "-o", "x"], 1, &["x", "exists"]);
    bench.fails(&["index", "in", "-o", "y"], 1, &["in"]);
    bench.fails(&["index", "out", "-o", "y", "--lists", "0"], 2, &["lists"]);
    bench.ok(&["extract", "in", "other", "--no-pca"]);
    bench.fails(&["index", "other", "-o", "x", "--add"], 1, &["edge_threshold"]);
    bench.ok(&["pixels", "in", "pixels", "--size", "4"]);
    bench.fails(&["index", "pixels", "-o", "y"], 1, &["32 bytes"]);
    let again = bench.ok(&["index", "out", "-o", "x", "--add"]);
    assert!(again.contains("0 added, 36 known"), "{again}");
    bench.ok(&["index", "out", "-o", "x", "--overwrite", "--lists", "4"]);
    assert!(!bench.path("y").exists());
    assert!(testkit::names(bench.root.path()).iter().all(|name| !name.starts_with(".index")));
}

#[test]
fn duplicates_are_listed() {
    let bench = Bench::new();
    fs::copy(bench.path("in/plum/003.jpg"), bench.path("in/apple/copy.jpg")).unwrap();
    bench.ok(&["extract", "in", "out", "--mode", "overwrite", "--edge-threshold", "15"]);
    let table = bench.ok(&["duplicates", "out"]);
    assert!(table.contains("exact") && table.contains("in/apple/copy.jpg"), "{table}");
    let lines = bench.ok(&["duplicates", "out", "--exact", "--json"]);
    let one: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(
        (one["kind"].as_str(), one["path"].as_str()),
        (Some("exact"), Some("in/plum/003.jpg"))
    );
    fs::remove_dir_all(bench.path("in")).unwrap();
    let output = bench.run(&["duplicates", "out", "--exact"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("same-features"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not be read again"));
    bench.fails(&["duplicates", "out", "--share", "0"], 2, &["share"]);
}

#[test]
fn a_report_is_written_with_its_json() {
    let bench = Bench::new();
    let run = bench.ok(&["extract", "in", "out", "--mode", "overwrite", "--json"]);
    fs::write(bench.path("run.json"), run).unwrap();
    let said =
        bench.ok(&["report", "out", "-o", "r.html", "--json", "r.json", "--run", "run.json"]);
    assert!(said.starts_with("r.html: ") && said.contains("36 images"), "{said}");
    let html = fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(html.contains("<td class=\"num\">") && html.contains("in/apple/000.jpg"));
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("r.json")).unwrap()).unwrap();
    assert_eq!(json["run"]["threads"], serde_json::json!(num_threads()));
    bench.fails(
        &["report", "out", "-o", "run.json", "--run", "run.json"],
        2,
        &["run.json", "not written over"],
    );
    bench.fails(&["report", "out", "-o", "r.html", "--json", "r.html"], 2, &["same file"]);
    let other = fs::read_to_string(bench.path("run.json"))
        .unwrap()
        .replace("\"images\":36", "\"images\":37");
    fs::write(bench.path("other.json"), other).unwrap();
    bench.fails(&["report", "out", "--run", "other.json"], 2, &["run", "37", "36"]);
    bench.fails(&["report", "out", "--run", "r.html"], 2, &["r.html", "no report of a run"]);
    bench.fails(&["report", "in", "-o", "x.html"], 1, &["in"]);
    bench.fails(&["report", "out", "-o", "no/where.html"], 1, &["no/where.html"]);
    fs::remove_file(bench.path("out/_SUCCESS")).unwrap();
    let output = bench.run(&["report", "out", "-o", "r.html"]);
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stderr).contains("_SUCCESS")
    );
}

fn num_threads() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_an_index_as_it_was() {
    let bench = Bench::new();
    bench.ok(&["index", "out", "-o", "x"]);
    let before = fs::read(bench.path("x")).unwrap();
    // More photos than the limit on the file's size leaves room for.
    photos::write_photos(&bench.path("in"), 30).unwrap();
    bench.ok(&["extract", "in", "more", "--n-features", "100", "--edge-threshold", "15"]);
    let program = env!("CARGO_BIN_EXE_orb-features");
    // The signal of the limit is ignored, so that the write fails.
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec {program} index more -o x --add",
        before.len() / 512 + 8
    );
    let output =
        Command::new("sh").current_dir(bench.root.path()).args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && message.contains("cannot write x"), "{message}");
    assert_eq!(fs::read(bench.path("x")).unwrap(), before);
    bench.ok(&["index", "more", "-o", "x", "--add"]);
}
