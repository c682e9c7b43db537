//! The report: what it holds, what it survives, and that a browser shows it.
#![cfg(all(feature = "jpeg", feature = "report"))]

use std::fs;
use std::path::Path;
use std::process::Command;

use orb_features::prelude::*;
use orb_features::report::{MAX_BYTES, Report, ReportParams};
use orb_features::results::ResultReader;
use testkit::photos;

/// A label and a name that would run in a careless page.
const EVIL: &str = "<script>alert(1)</script>";
const EVIL_NAME: &str = "\"><img src=x onerror=alert(2)>.jpg";

/// Photos of six kinds, and everything strange between them.
fn images() -> Vec<(String, Vec<u8>)> {
    let mut images: Vec<_> = (0..60)
        .map(|i| (format!("kind {}/{i:02}.jpg", i % 6), photos::photo(i as usize % 6, i).unwrap()))
        .collect();
    let photo = images[4].1.clone();
    images.push(("kind 5/torn.jpg".to_owned(), photo[..photo.len() / 2].to_vec()));
    images.push(("kind 5/text.png".to_owned(), b"no image".to_vec()));
    images.push(("kind 5/empty.jpg".to_owned(), Vec::new()));
    images.push(("kind 5/one.pgm".to_owned(), b"P5 1 1 255\n\x07".to_vec()));
    images.push((
        "flat/flat.pgm".to_owned(),
        [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat(),
    ));
    images.push((format!("{EVIL}/{EVIL_NAME}"), photo));
    images
}

/// The result of a job on some images, in a folder, and its report.
fn run<E: FeatureExtractor + Clone + 'static>(
    folder: &Path,
    images: Vec<(String, Vec<u8>)>,
    extractor: E,
    pca: Option<usize>,
) -> RunReport {
    let source = images.into_iter().map(|(path, bytes)| {
        let label = path.split_once('/').map(|(label, _)| label.to_owned());
        Ok(ImageObject { label, ..ImageObject::new(path, bytes) })
    });
    let sink = FileSink::create(folder, FileParams::default()).unwrap();
    let job = Pipeline::new(source, extractor, sink).with_on_error(OnError::Record);
    let job = job.with_allow_empty(true);
    let job = match pca {
        Some(k) => job.with_pca(PcaParams::new(k)),
        None => job.without_pca(),
    };
    job.run().unwrap()
}

fn orb() -> Orb {
    OrbParams::default().with_edge_threshold(15).build().unwrap()
}

fn report(folder: &Path, params: &ReportParams) -> Report {
    let images = images();
    let mut read =
        |path: &str| images.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.clone());
    Report::new(&ResultReader::open(folder).unwrap(), params, &mut read).unwrap()
}

const SECTIONS: [&str; 10] = [
    "run",
    "failures",
    "few",
    "keypoints",
    "labels",
    "pca",
    "photos",
    "mixups",
    "similar",
    "extremes",
];

/// Checks that all sections are there, in order, and that nothing of a name is markup.
fn check(html: &str) {
    let mut at = 0;
    for section in SECTIONS {
        let found = html[at..].find(&format!("<section id=\"{section}\""));
        at += found.unwrap_or_else(|| panic!("no section {section} after {at}"));
    }
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!html.contains("<img") && !html.contains("onerror=alert(2)>.jpg\""));
    assert!(html.len() <= MAX_BYTES);
    for foreign in ["http://", "https://", "url("] {
        assert!(!html.contains(foreign), "{foreign}");
    }
}

#[test]
fn a_report_tells_what_a_run_found() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("out");
    let of_run = run(&folder, images(), orb(), Some(6));
    let report = report(&folder, &ReportParams::default().with_run(of_run.clone()));
    assert!(report.is_complete);
    assert_eq!((report.run.images, report.run.failed, report.n_labels), (66, 4, 8));
    assert_eq!(report.run.vectors, of_run.rows);
    assert_eq!(report.run.without_features, 1);
    let causes: Vec<_> = report.failures.causes.iter().map(|(cause, n)| (&**cause, *n)).collect();
    assert_eq!(causes, [("corrupt", 1), ("empty", 1), ("empty_level", 1), ("not_an_image", 1)]);
    assert_eq!(report.failures.listed.len(), 4);
    assert!(report.failures.listed.iter().all(|failed| !failed.message.is_empty()));
    assert_eq!(report.keypoints.bins.iter().map(|bin| bin.photos).sum::<u64>(), 62);
    assert_eq!(report.labels.iter().map(|row| row.photos + row.failed).sum::<u64>(), 66);
    let pca = report.pca.as_ref().unwrap();
    assert_eq!((pca.ratios.len(), pca.n_rows), (6, of_run.rows));
    assert_eq!(report.scatter.as_ref().unwrap().points.len(), 61);
    assert!(
        report
            .photos
            .iter()
            .flat_map(|of_label| &of_label.photos)
            .all(|thumb| thumb.svg.contains("data:image/jpeg"))
    );
    let mixups = report.mixups.as_ref().unwrap();
    assert!(mixups.searched == 61 && mixups.right > 10, "{mixups:?}");
    let exact = &report.similar.listed[0];
    assert_eq!((exact.kind.as_str(), &*exact.path), ("exact", &*format!("{EVIL}/{EVIL_NAME}")));
    assert_eq!((report.extremes.read, report.extremes.unread), (62, 0));
    assert_eq!(report.extremes.darkest[0].photo.path, "flat/flat.pgm");
    assert!(report.extremes.darkest[0].value == 9.0 && report.extremes.blurriest[0].value == 0.0);
    let stages: f64 = report.run.stages.iter().map(|stage| stage.seconds).sum();
    assert!(stages > 0.0);

    let html = report.to_html().unwrap();
    check(&html);
    assert!(html.contains("&#60;script&#62;") || html.contains("&lt;script&gt;"));
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["run"]["images"], 66);
    assert_eq!(json["labels"].as_array().unwrap().len(), 8);
    // The same again, byte by byte.
    let again = self::report(&folder, &ReportParams::default().with_run(of_run));
    assert_eq!(again.to_html().unwrap(), html);
}

#[test]
fn what_is_missing_is_said() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let nothing = &mut |_: &str| None;
    let params = ReportParams::default();

    // Photos that are gone.
    run(&at("gone"), images(), orb(), Some(4));
    fs::remove_file(at("gone/_SUCCESS")).unwrap();
    let gone = Report::new(&ResultReader::open(at("gone")).unwrap(), &params, nothing).unwrap();
    let html = gone.to_html().unwrap();
    check(&html);
    assert!(html.contains("cannot be read again") && html.contains("62 could not be read"));
    assert!(
        html.contains("its writer has not finished it") && html.contains("give the run's report")
    );

    // No row at all.
    let flat = [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat();
    run(&at("empty"), vec![("flat/1.pgm".to_owned(), flat)], orb(), None);
    let empty = Report::new(&ResultReader::open(at("empty")).unwrap(), &params, nothing).unwrap();
    let html = empty.to_html().unwrap();
    check(&html);
    assert!(html.contains("The result has no PCA") && html.contains("No photo has features"));
    assert_eq!((empty.run.images, empty.run.without_features, empty.keypoints.median), (1, 1, 0));

    // Other vectors.
    let pixels = PixelParams::default().with_size(4, 4).build().unwrap();
    run(&at("pixels"), images(), pixels, Some(3));
    let pixels = report(&at("pixels"), &params);
    let html = pixels.to_html().unwrap();
    check(&html);
    assert!(pixels.mixups.is_none() && html.contains("Nothing to search for"));
    assert!(!pixels.has_keypoints && html.contains("belong to no keypoints"));
    assert!(pixels.similar.left_out.is_some());

    // No list of all images, as older results and those of others.
    run(&at("unlisted"), images(), orb(), None);
    fs::remove_dir_all(at("unlisted/_images")).unwrap();
    let unlisted = report(&at("unlisted"), &params);
    assert_eq!((unlisted.run.images, unlisted.n_labels), (61, 7));
    check(&unlisted.to_html().unwrap());
    // Its run knows of more images, and is the right one all the same.
    let more = run(&at("more"), images(), orb(), None);
    fs::remove_dir_all(at("more/_images")).unwrap();
    report(&at("more"), &ReportParams::default().with_run(more));
}

/// A result that photos were added to twice.
#[test]
fn a_path_may_be_in_a_result_twice() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    run(&out, images(), orb(), None);
    let params = FileParams::default().with_mode(WriteMode::Append).with_force(true);
    let sink = FileSink::create(&out, params).unwrap();
    Pipeline::new(MemorySource::new(images()), orb(), sink)
        .without_pca()
        .with_on_error(OnError::Skip)
        .run()
        .unwrap();
    let report = report(&out, &ReportParams::default());
    check(&report.to_html().unwrap());
    let mixups = report.mixups.unwrap();
    assert_eq!(mixups.among, 61, "each path once");
    assert!(mixups.shown.iter().all(|mixed| mixed.photo.path != mixed.nearest.path));
}

#[test]
fn a_page_stays_below_its_size_whatever_the_names() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("out");
    let long = "<&\"'>".repeat(800);
    let photo = photos::photo(1, 1).unwrap();
    let images: Vec<_> = (0..600)
        .map(|i| match i % 3 {
            0 => (format!("{i}{long}/{i}{long}.jpg"), photo[..500].to_vec()),
            1 => (
                format!("{i}{long}/{i}{long}.pgm"),
                b"P5 99 99 255\n".iter().copied().chain([7; 99 * 99]).collect(),
            ),
            _ => (format!("{i}{long}/{i}{long}.jpg"), photo.clone()),
        })
        .collect();
    run(&folder, images.clone(), orb(), Some(2));
    let mut read =
        |path: &str| images.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.clone());
    let result = ResultReader::open(&folder).unwrap();
    let report = Report::new(&result, &ReportParams::default(), &mut read).unwrap();
    let html = report.to_html().unwrap();
    check(&html);
    assert!(html.contains("Lists are cut to"));
}

/// The head of a column that is sorted.
const SORTED: &str = "<th scope=\"col\" aria-sort=\"descending\">";

/// What Chromium makes of a page: its document after the scripts have run, and its messages.
fn in_chromium(page: &Path) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("chromium is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[test]
#[ignore = "needs Chromium"]
fn a_browser_shows_the_page_without_an_error_and_sorts_its_tables() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("out");
    run(&folder, images(), orb(), Some(6));
    let html = report(&folder, &ReportParams::default()).to_html().unwrap();
    let page = root.path().join("report.html");
    fs::write(&page, &html).unwrap();
    let (document, messages) = in_chromium(&page);
    assert!(!messages.contains("CONSOLE"), "{messages}");
    for section in SECTIONS {
        assert!(document.contains(&format!("<section id=\"{section}\"")), "{section}");
    }
    assert!(!document.contains("<img"));
    // The page's own script runs; one of another text does not, and says so.
    let clicked =
        html.replace("</script>", "document.querySelector('#labels th button').click();</script>");
    fs::write(&page, &clicked).unwrap();
    let (document, messages) = in_chromium(&page);
    assert!(messages.contains("CONSOLE") && !document.contains(SORTED), "{messages}");
    let policy = html.find("<meta http-equiv").unwrap();
    let end = policy + html[policy..].find('>').unwrap() + 1;
    let unguarded = clicked.replace(&html[policy..end], "");
    fs::write(&page, unguarded).unwrap();
    let (document, messages) = in_chromium(&page);
    assert!(!messages.contains("CONSOLE"), "{messages}");
    assert!(document.contains(SORTED));
}
