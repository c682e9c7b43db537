//! `S3Source` against a server in this process: each listed object comes whole and in order, or an error
//! names it.
#![cfg(feature = "s3")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orb_features::prelude::*;
use testkit::s3::{ACCESS_KEY, Fault, Memory, SECRET_KEY, Scripted, Server, answer};

/// A store with a bucket, and its server.
fn serve(objects: &[(&str, &[u8])]) -> (Memory, Server) {
    let memory = Memory::with_bucket("lab");
    for (key, bytes) in objects {
        memory.seed("lab", key, bytes.to_vec());
    }
    let server = Server::start(&memory);
    (memory, server)
}

fn source(server: &Server, location: &str) -> S3Source {
    S3Source::new(&server.connect(), location).unwrap()
}

fn all(source: S3Source) -> Vec<Result<ImageObject>> {
    source.open().unwrap().collect()
}

fn uris(source: S3Source) -> Vec<String> {
    all(source).into_iter().map(|image| image.unwrap().uri).collect()
}

/// Pseudo-random bytes, so that no cut goes unnoticed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn many_pages_come_in_the_order_of_the_keys() {
    let (memory, server) = serve(&[]);
    let mut keys: Vec<String> = (0..2503)
        .map(|i| format!("in/{}/{:04}.jpg", ["a", "b c", "ü"][i % 3], i * 7 % 2503))
        .collect();
    for key in &keys {
        memory.seed("lab", key, key.clone().into_bytes());
    }
    keys.sort();
    for page_size in [100, 1000] {
        let images = all(source(&server, "s3://lab/in").with_page_size(page_size));
        assert_eq!(images.len(), keys.len());
        for (image, key) in images.into_iter().zip(&keys) {
            let image = image.unwrap();
            assert_eq!((image.uri, &image.bytes[..]), (format!("s3://lab/{key}"), key.as_bytes()));
            assert_eq!(image.label.as_deref(), key.split('/').nth(1));
            assert!(image.modified.is_some() && image.retries == 0);
        }
    }
    assert!(server.requests() > 2 * 2503 + 26);
}

/// The same tree in a folder and in a bucket gives the same images under every selection.
#[test]
fn selections_are_those_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, server) = serve(&[]);
    for name in [
        "root.jpg",
        "a/1.jpg",
        "a/2.PNG",
        "a/notes.txt",
        "a/.hidden.jpg",
        "a/empty.jpg",
        "a-b/3.jpeg",
        "a.b/4.jpg",
        ".git/5.jpg",
        "Été 100%/x + y & z.jpg",
        "Été 100%/q#?.jpg",
        "kind=Pêche/deep/er/6.tiff",
        "z/%41.jpg",
        "z/a'b\"c<d>.jpg",
    ] {
        let path = folder.path().join("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = if name.contains("empty") { Vec::new() } else { name.as_bytes().to_vec() };
        fs::write(&path, &bytes).unwrap();
        memory.seed("lab", &format!("data/tree/{name}"), bytes);
    }
    // A console's placeholder for a folder is not an image.
    memory.seed("lab", "data/tree/a/", Bytes::new());
    memory.seed("lab", "data/tree-2/not-in-it.jpg", "x");
    let root = folder.path().join("tree");
    let on_disk = FsSource::new(&root);
    let in_bucket = source(&server, "s3://lab/data/tree");
    let globs =
        [None, Some("**/*.jpg"), Some("*.jpg"), Some("a*/*"), Some("Été*/**"), Some("z/%41.jpg")];
    let labels = ["parent", "none", "segment:0", "hive:kind"];
    let mut compared = 0;
    for glob in globs {
        for label in labels {
            for recursive in [true, false] {
                for extensions in [None, Some(["jpg", "png"])] {
                    for sizes in [None, Some(1..10_u64)] {
                        let label: LabelRule = label.parse().unwrap();
                        let mut selection =
                            Selection::default().with_label(label).with_recursive(recursive);
                        if let Some(glob) = glob {
                            selection = selection.with_glob(glob);
                        }
                        if let Some(extensions) = extensions {
                            selection = selection.with_extensions(extensions);
                        }
                        if let Some(sizes) = &sizes {
                            selection = selection.with_sizes(sizes.clone());
                        }
                        let disk = on_disk.clone().with_selection(selection.clone());
                        let bucket = in_bucket.clone().with_selection(selection);
                        let below = |image: Result<ImageObject>, root: &str| match image {
                            Ok(image) => {
                                let relative = image.uri.strip_prefix(root).unwrap().to_owned();
                                Some((relative, image.label, image.bytes))
                            }
                            Err(Error::NoInput { .. }) => None,
                            Err(error) => panic!("{error}"),
                        };
                        let disk: Vec<_> = disk
                            .open()
                            .unwrap()
                            .read()
                            .map(|i| below(i, &format!("{}/", root.display())))
                            .collect();
                        let bucket: Vec<_> = all(bucket)
                            .into_iter()
                            .map(|i| below(i, "s3://lab/data/tree/"))
                            .collect();
                        assert_eq!(bucket, disk, "{glob:?} {recursive} {extensions:?} {sizes:?}");
                        compared += disk.len();
                    }
                }
            }
        }
    }
    assert!(compared > 400, "{compared}");
}

#[test]
fn any_key_is_unharmed() {
    let keys = [
        "p//double.jpg",
        "p/a b+c%20d.jpg",
        "p/\u{1}control.jpg",
        "p/日本/🍎.jpg",
        "p/a\nb.jpg",
        "p/../up.jpg",
        "p/&amp;<x>.jpg",
    ];
    let objects: Vec<(&str, &[u8])> = keys.iter().map(|&key| (key, key.as_bytes())).collect();
    let (_memory, server) = serve(&objects);
    let mut expected: Vec<String> = keys
        .iter()
        .filter(|key| !key.contains(".."))
        .map(|key| format!("s3://lab/{key}"))
        .collect();
    expected.sort();
    let images = all(source(&server, "s3://lab/p"));
    let found: Vec<_> = images.iter().map(|i| i.as_ref().unwrap().uri.clone()).collect();
    // A segment that begins with a dot is hidden.
    assert_eq!(found, expected);
    for image in images {
        let image = image.unwrap();
        assert_eq!(image.uri.as_bytes()[9..], image.bytes[..]);
    }
}

#[test]
fn a_place_can_be_a_bucket_a_folder_or_an_object() {
    let (memory, server) =
        serve(&[("a.jpg", b"1"), ("x/a.jpg", b"2"), ("x/y", b"3"), ("x/y/z.jpg", b"4")]);
    assert_eq!(
        uris(source(&server, "s3://lab")),
        ["s3://lab/a.jpg", "s3://lab/x/a.jpg", "s3://lab/x/y/z.jpg"]
    );
    assert_eq!(uris(source(&server, "s3://lab/x/")), ["s3://lab/x/a.jpg", "s3://lab/x/y/z.jpg"]);
    // Whatever its name.
    memory.seed("lab", "x/.b.jpg", b"5".to_vec());
    assert_eq!(uris(source(&server, "s3://lab/x/.b.jpg")), ["s3://lab/x/.b.jpg"]);
    let one = all(source(&server, "s3://lab/x/a.jpg"));
    let one = one[0].as_ref().unwrap();
    assert_eq!((one.uri.as_str(), one.label.as_deref()), ("s3://lab/x/a.jpg", Some("x")));
    for (location, says) in [
        ("s3://lab/none", "there are no objects in it"),
        ("s3://lab/x/y/z", "there are no objects in it"),
    ] {
        let error = all(source(&server, location)).remove(0).unwrap_err();
        assert!(
            matches!(error, Error::NoInput { .. }) && error.to_line().contains(says),
            "{error}"
        );
    }
    let gifs = Selection::default().with_glob("*.gif");
    let error = all(source(&server, "s3://lab/x").with_selection(gifs)).remove(0).unwrap_err();
    assert!(error.to_line().contains("none of its 3 objects matches the glob *.gif"), "{error}");
}

#[test]
fn a_list_is_shared_out_to_other_sources() {
    let keys =
        ["in/a/1.jpg", "in/a/2 +%.jpg", "in/b/\u{fc}\n.jpg", "in/note.txt", "in/.hidden.jpg"];
    let objects = keys.map(|key| (key, key.as_bytes()));
    let (memory, server) = serve(&objects);
    let facts = |images: Vec<Result<ImageObject>>| -> Vec<_> {
        let images = images.into_iter().map(Result::unwrap);
        images.map(|image| (image.uri, image.label, image.bytes)).collect()
    };
    let whole = facts(all(source(&server, "s3://lab/in")));
    let list = |source: S3Source| -> Vec<ImageRef> {
        source.list().unwrap().map(Result::unwrap).collect()
    };
    let listed = list(source(&server, "s3://lab/in"));
    assert_eq!(list(source(&server, "s3://lab/in").with_page_size(1)), listed);
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|image| image.size.is_some() && image.etag.is_some()));
    let requests = server.requests();
    let part =
        |listed: &[ImageRef]| all(source(&server, "s3://lab/in").with_listed(listed.to_vec()));
    let parts = [part(&listed[..2]), part(&listed[2..])].into_iter().flatten();
    assert_eq!(facts(parts.collect()), whole);
    // Nothing is listed again.
    assert_eq!(server.requests(), requests + 3);
    // Another bucket's or folder's are refused.
    for place in ["s3://other/in", "s3://lab/in/a"] {
        let other = source(&server, place).with_listed(listed.clone());
        assert!(other.open().unwrap_err().to_line().contains("invalid listed: s3://lab/in/"));
    }
    // Another object than the one that was listed is not read for it.
    memory.seed("lab", "in/a/1.jpg", b"another".to_vec());
    let found = part(&listed);
    assert_eq!(found[0].as_ref().unwrap_err().code(), "changed");
    assert!(found[1..].iter().all(Result::is_ok));
    // A single object, its label included, and what is not there.
    let one = || source(&server, "s3://lab/in/a/1.jpg");
    let listed = list(one());
    assert_eq!(all(one().with_listed(listed))[0].as_ref().unwrap().label.as_deref(), Some("a"));
    let nothing: Vec<_> = source(&server, "s3://lab/none").list().unwrap().collect();
    assert!(matches!(nothing[..], [Err(Error::NoInput { .. })]));
    assert!(source(&server, "s3://other/in").list().is_err());
    // A list that fails on the way ends with the error; one that nobody reads is given up.
    let broken = source(&server, "s3://lab/in").with_page_size(1);
    let mut images = broken.list().unwrap();
    images.next().unwrap().unwrap();
    drop(images);
    let mut images = source(&server, "s3://lab/in").with_page_size(1).list().unwrap();
    drop(server);
    let rest: Vec<_> = images.by_ref().collect();
    assert!(rest.last().unwrap().is_err() || rest.len() == 3);
    assert!(images.next().is_none());
}

#[test]
fn work_starts_before_the_listing_ends() {
    let (_memory, server) = serve(&[("1.jpg", b"1"), ("2.jpg", b"2"), ("3.jpg", b"3")]);
    let is_first_here = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_first_here);
    // The second page comes only once the first image is here.
    server.plan(move |asked| {
        let is_second = asked.query.contains("continuation-token");
        (is_second && !flag.load(Ordering::SeqCst)).then_some(Fault::Error(503, "SlowDown"))
    });
    let s3 = server.params().with_attempts(1000).connect().unwrap();
    let mut images = S3Source::new(&s3, "s3://lab").unwrap().with_page_size(1).open().unwrap();
    assert_eq!(&images.next().unwrap().unwrap().bytes[..], b"1");
    is_first_here.store(true, Ordering::SeqCst);
    let rest: Vec<ImageObject> = images.map(Result::unwrap).collect();
    assert_eq!(rest.len(), 2);
    // The retries of the listing are attributed to the next image.
    assert_eq!(u64::from(rest.iter().map(|image| image.retries).sum::<u32>()), s3.retries());
}

#[test]
fn requests_in_flight_are_bounded() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..60).map(|i| format!("{i:03}.jpg")), "x".into());
    server.plan(|asked| (asked.number > 0).then_some(Fault::Late(Duration::from_millis(20))));
    for (requests, most) in [(1, 1), (7, 7)] {
        let started = Instant::now();
        assert_eq!(uris(source(&server, "s3://lab").with_requests_in_flight(requests)).len(), 60);
        assert_eq!(server.most_in_flight(), most, "in {:?}", started.elapsed());
    }
}

#[test]
fn bytes_in_flight_are_bounded() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..40).map(|i| format!("{i:02}.jpg")), noise(100_000, 1).into());
    memory.seed("lab", "20.jpg", noise(900_000, 2));
    let before = server.requests();
    let mut images = source(&server, "s3://lab").with_bytes_in_flight(300_000).open().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // Nothing is consumed yet: one request lists, two fetch objects; a third object would exceed the bound.
    assert_eq!(server.requests() - before, 3);
    images.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.requests() - before, 4);
    // An object that is larger than the bound passes, too.
    let sizes: Vec<_> = images.map(|image| image.unwrap().bytes.len()).collect();
    assert_eq!((sizes.len(), sizes[19]), (39, 900_000));
}

#[test]
fn every_passing_fault_is_mended() {
    let bytes = noise(30_000, 3);
    let (memory, server) = serve(&[("k.jpg", &bytes)]);
    // An object as new clients put it: with a checksum.
    let checked = noise(30_000, 4);
    memory.seed_with_checksum("lab", "with-checksum.jpg", checked.clone());
    let faults = [
        Fault::Error(503, "SlowDown"),
        Fault::Error(500, "InternalError"),
        Fault::Error(429, "TooManyRequests"),
        Fault::Error(400, "RequestTimeout"),
        Fault::ResetAfterEffect,
        Fault::ErrorAfterEffect,
        Fault::Reset(10_000),
        Fault::Truncate(10_000),
        Fault::Truncate(0),
        Fault::Stall(10_000),
        Fault::Stall(0),
        Fault::Flip(5_000),
        Fault::Shorten(10_000),
        Fault::Shorten(0),
        Fault::Late(Duration::from_secs(3)),
    ];
    let s3 = server.params().with_timeout(Duration::from_millis(300)).connect().unwrap();
    for fault in faults {
        let planned = fault.clone();
        // Each object and the listing fail twice. Listings are not flipped: the result would be another valid
        // key.
        server.plan(move |asked| {
            let is_listing = asked.query.contains("list-type");
            let is_flip = matches!(planned, Fault::Flip(_));
            (asked.seen < 2 && !(is_listing && is_flip)).then(|| planned.clone())
        });
        let images: Vec<ImageObject> = S3Source::new(&s3, "s3://lab")
            .unwrap()
            .open()
            .unwrap()
            .map(|image| image.unwrap_or_else(|e| panic!("{fault:?}: {}", e.to_line())))
            .collect();
        assert!(images[0].bytes == bytes && images[1].bytes == checked, "{fault:?}");
        let retries: u32 = images.iter().map(|image| image.retries).sum();
        let listing = if matches!(fault, Fault::Flip(_)) { 0 } else { 2 };
        assert_eq!(retries, 4 + listing, "{fault:?}");
    }
}

/// A page that is cut must not be taken for the last one.
#[test]
fn a_listing_cut_anywhere_loses_nothing() {
    let (_memory, server) = serve(&[("a&b.jpg", b"1"), ("c.jpg", b"2"), ("d.jpg", b"3")]);
    let s3 = server.connect();
    let mut retried = 0;
    for at in 0..1500 {
        server.plan(move |asked| {
            let is_first = asked.query.contains("list-type") && asked.seen == 0;
            is_first.then_some(Fault::Shorten(at))
        });
        let source = S3Source::new(&s3, "s3://lab").unwrap();
        let images: Vec<ImageObject> = source.open().unwrap().map(Result::unwrap).collect();
        assert_eq!(images.len(), 3, "cut at {at}");
        retried += images[0].retries;
    }
    assert!(retried > 500, "{retried}");
}

#[test]
fn a_large_body_that_breaks_off_is_resumed() {
    let bytes = noise(3_000_000, 5);
    let (memory, server) = serve(&[("k.jpg", &bytes)]);
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let asked_for = Arc::clone(&ranges);
    server.plan(move |asked| {
        if asked.path != "/lab/k.jpg" {
            return None;
        }
        let header = |name| asked.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        asked_for.lock().unwrap().push((header("range"), header("if-match")));
        (asked.seen < 3).then_some(Fault::Reset(1_000_000))
    });
    let image = all(source(&server, "s3://lab")).remove(0).unwrap();
    assert!(image.bytes == bytes);
    let ranges = std::mem::take(&mut *ranges.lock().unwrap());
    assert_eq!(ranges.len(), 4);
    assert_eq!(ranges[0].0, None);
    let mut from = 0;
    for (range, etag) in &ranges[1..] {
        // A reset takes along what came and was not yet read. If that is all, the body is asked for anew.
        let Some(range) = range else {
            assert_eq!(from, 0, "{ranges:?}");
            continue;
        };
        let start = range.strip_prefix("bytes=").unwrap().trim_end_matches('-');
        let start: u64 = start.parse().unwrap();
        assert!(start >= from, "{ranges:?}");
        from = start;
        assert_eq!(etag, &ranges[0].1);
        assert!(etag.is_some());
    }
    assert!(from > 0, "{ranges:?}");
    // A change between two pieces is detected: no object is put together from two versions.
    let (store, other) = (memory.clone(), noise(3_000_000, 6));
    server.plan(move |asked| {
        if asked.path == "/lab/k.jpg" && asked.seen == 1 {
            store.seed("lab", "k.jpg", other.clone());
        }
        (asked.path == "/lab/k.jpg" && asked.seen == 0).then_some(Fault::Reset(1_000_000))
    });
    let error = all(source(&server, "s3://lab")).remove(0).unwrap_err();
    assert_eq!(error.code(), "changed", "{error}");
}

#[test]
fn what_does_not_pass_is_named_and_loses_nothing_else() {
    let (memory, server) = serve(&[]);
    let names = ["changed", "fine", "flipped", "refused", "unavailable", "vanished"];
    let path = |name: &str| format!("{name}.jpg");
    for name in names {
        memory.seed("lab", &path(name), noise(2000, 7));
    }
    let store = memory.clone();
    let is_listed = AtomicBool::new(false);
    server.plan(move |asked| {
        if !asked.query.contains("list-type") && !is_listed.swap(true, Ordering::SeqCst) {
            // After the listing.
            store.seed("lab", "changed.jpg", noise(2000, 8));
            store.remove("lab", "vanished.jpg");
        }
        match asked.path.as_str() {
            "/lab/flipped.jpg" => Some(Fault::Flip(77)),
            "/lab/refused.jpg" => Some(Fault::Error(403, "InvalidObjectState")),
            "/lab/unavailable.jpg" => Some(Fault::Error(503, "SlowDown")),
            _ => None,
        }
    });
    let s3 = server.params().with_attempts(3).connect().unwrap();
    // One at a time, so that the first request comes before all others.
    let source = S3Source::new(&s3, "s3://lab").unwrap().with_requests_in_flight(1);
    let images: Vec<_> = source.open().unwrap().collect();
    let codes: Vec<_> =
        images.iter().map(|i| i.as_ref().map_or_else(Error::code, |_| "-")).collect();
    assert_eq!(codes, ["changed", "-", "wrong_checksum", "refused", "unavailable", "vanished"]);
    let lines: Vec<_> =
        images.iter().filter_map(|i| i.as_ref().err().map(Error::to_line)).collect();
    assert_eq!(
        lines[0],
        "cannot read s3://lab/changed.jpg: it has changed (PreconditionFailed, HTTP 412)"
    );
    assert!(
        lines[1].contains("does not fit the MD5 that is its ETag, after 3 attempts"),
        "{lines:?}"
    );
    assert!(lines[2].contains("access denied (InvalidObjectState"), "{lines:?}");
    assert!(
        lines[3].contains("slow down (SlowDown: planned, HTTP 503), after 3 attempts"),
        "{lines:?}"
    );
    assert!(lines[4].contains("it does not exist"), "{lines:?}");
    let retries: u32 = images.iter().filter_map(|i| i.as_ref().err().map(Error::retries)).sum();
    assert_eq!(retries, 4);
    assert!(images.iter().filter_map(|i| i.as_ref().err()).all(Error::is_of_one_image));
}

#[test]
fn a_listing_that_fails_ends_the_stream() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..10).map(|i| format!("{i}.jpg")), "x".into());
    server.plan(|asked| {
        asked.query.contains("continuation-token").then_some(Fault::Error(403, "AccessDenied"))
    });
    let images = all(source(&server, "s3://lab").with_page_size(4));
    assert_eq!(images.len(), 5);
    let error = images.last().unwrap().as_ref().unwrap_err();
    // The missing keys are unknown, so the job must end.
    assert!(matches!(error, Error::List { .. }) && !error.is_of_one_image());
    // Credentials that expire while objects are read are not an error of one object.
    server.plan(|asked| {
        (!asked.query.contains("list-type")).then_some(Fault::Error(400, "ExpiredToken"))
    });
    let error = all(source(&server, "s3://lab")).remove(0).unwrap_err();
    assert!(
        matches!(error, Error::Connect { .. }) && error.to_line().contains("expired"),
        "{error}"
    );
}

#[test]
fn a_wrong_account_place_or_network_is_one_clear_line() {
    let (_memory, server) = serve(&[("a.jpg", b"1")]);
    let open = |params: S3Params, location: &str| {
        let started = Instant::now();
        let error = params
            .connect()
            .and_then(|s3| S3Source::new(&s3, location))
            .and_then(ImageSource::open)
            .unwrap_err();
        // Soon, though not to the second on a busy machine.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        let line = error.to_line();
        assert!(!line.contains('\n') && !line.contains(SECRET_KEY), "{line}");
        line
    };
    let params = || {
        // With the default waits between attempts.
        S3Params::default()
            .with_endpoint_url(server.endpoint())
            .with_region("eu-central-1")
            .with_credentials(ACCESS_KEY, SECRET_KEY, None)
    };
    let line = open(params().with_credentials(ACCESS_KEY, "wrong", None), "s3://lab");
    assert!(line.contains("cannot list s3://lab/: the secret key is wrong"), "{line}");
    let line = open(params().with_credentials("AKIANOBODY", SECRET_KEY, None), "s3://lab");
    assert!(line.contains("s3://lab/"), "{line}");
    let line = open(params().with_anonymous(true), "s3://lab");
    assert!(line.contains("access denied"), "{line}");
    let line = open(params(), "s3://missing/x");
    assert!(line.contains("cannot list s3://missing/x: the bucket does not exist"), "{line}");
    server.plan(|_| Some(Fault::WrongRegion("us-west-2")));
    let line = open(params(), "s3://lab");
    assert!(line.contains("wrong region: the bucket is in us-west-2"), "{line}");
    let line = open(params().with_endpoint_url("http://127.0.0.1:9"), "s3://lab");
    assert!(line.contains("refused") && line.contains("after 3 attempts"), "{line}");
    let line = open(params().with_endpoint_url("http://no.such.host.invalid"), "s3://lab");
    assert!(line.contains("after 3 attempts"), "{line}");
    // No route: packets go nowhere.
    let nowhere = params()
        .with_endpoint_url("http://192.0.2.1")
        .with_connect_timeout(Duration::from_millis(500));
    let line = open(nowhere, "s3://lab");
    assert!(line.contains("cannot list s3://lab/"), "{line}");
}

#[test]
fn secrets_are_never_shown() {
    let (_memory, server) = serve(&[("a.jpg", b"1")]);
    let params =
        server.params().with_credentials(ACCESS_KEY, SECRET_KEY, Some("TOKEN42".to_owned()));
    let shown = format!("{params:?}");
    assert!(!shown.contains(SECRET_KEY) && !shown.contains("TOKEN42"), "{shown}");
    let s3 = params.connect().unwrap();
    let source = S3Source::new(&s3, "s3://lab").unwrap();
    let shown = format!("{s3:?} {source:?} {:?}", source.clone().open().unwrap());
    assert!(!shown.contains(SECRET_KEY) && !shown.contains("TOKEN42"), "{shown}");
}

#[test]
fn bad_parameters_are_named() {
    let (_memory, server) = serve(&[]);
    let s3 = server.connect();
    assert!(S3Source::new(&s3, "b/x").is_err());
    let source = || S3Source::new(&s3, "s3://lab").unwrap();
    for (source, name) in [
        (source().with_page_size(0), "page_size"),
        (source().with_page_size(1001), "page_size"),
        (source().with_requests_in_flight(0), "requests_in_flight"),
        (source().with_bytes_in_flight(0), "bytes_in_flight"),
        (source().with_selection(Selection::default().with_glob("a{b")), "glob"),
        (source().with_selection(Selection::default().with_extensions([""; 0])), "extensions"),
    ] {
        let listed = source.clone().list().err().unwrap().to_line();
        assert!(listed.contains(name), "{name}: {listed}");
        assert!(source.open().unwrap_err().to_line().contains(name), "{name}");
    }
    for (params, name) in [
        (server.params().with_attempts(0), "attempts"),
        (server.params().with_timeout(Duration::ZERO), "timeout"),
        (server.params().with_endpoint_url("localhost:9000"), "endpoint_url"),
    ] {
        assert!(params.connect().unwrap_err().to_line().contains(name), "{name}");
    }
}

#[test]
fn it_works_inside_another_runtime_and_ends_when_dropped() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..500).map(|i| format!("{i:03}.jpg")), "x".into());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Inside a task, which blocks this single-threaded runtime meanwhile.
    runtime.block_on(async {
        let images = source(&server, "s3://lab").open().unwrap();
        assert_eq!(images.map(Result::unwrap).count(), 500);
    });
    let before = server.requests();
    runtime.block_on(async {
        let mut images = source(&server, "s3://lab").with_requests_in_flight(4).open().unwrap();
        images.next().unwrap().unwrap();
    });
    // The stream is dropped, so queued objects are not fetched.
    std::thread::sleep(Duration::from_millis(200));
    let after = server.requests() - before;
    assert!(after < 100, "{after}");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.requests() - before, after);
}

#[test]
fn an_interrupt_ends_the_waiting() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..10).map(|i| format!("{i}.jpg")), "x".into());
    server.plan(|asked| (!asked.query.contains("list-type")).then_some(Fault::Stall(0)));
    let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
    let mut images = S3Source::new(&s3, "s3://lab").unwrap().open().unwrap();
    let other = s3.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        other.interrupt();
    });
    assert!(matches!(images.next(), Some(Err(Error::Interrupted))));
}

#[test]
fn etags_can_be_opaque() {
    let (memory, server) = serve(&[]);
    memory.seed_with_etag("lab", "k.jpg", "abc", "0123456789abcdef0123456789abcdef");
    let s3 = server.params().with_attempts(2).connect().unwrap();
    let error =
        S3Source::new(&s3, "s3://lab").unwrap().open().unwrap().next().unwrap().unwrap_err();
    assert_eq!(error.code(), "wrong_checksum");
    let s3 = server.params().with_md5_etags(false).connect().unwrap();
    let image = S3Source::new(&s3, "s3://lab").unwrap().open().unwrap().next().unwrap().unwrap();
    assert_eq!(&image.bytes[..], b"abc");
}

#[test]
fn too_large_objects_are_not_even_asked_for() {
    let (_memory, server) = serve(&[("1.jpg", b"1"), ("2.jpg", b"12345"), ("3.jpg", b"123")]);
    let images = all(source(&server, "s3://lab").with_max_object_bytes(4));
    let error = images[1].as_ref().unwrap_err();
    assert!(images[0].is_ok() && images[2].is_ok());
    assert_eq!((error.code(), error.uri()), ("too_large", Some("s3://lab/2.jpg")));
    assert_eq!(server.requests(), 3);
}

/// A grey photo with corners.
fn photo() -> Vec<u8> {
    let pixel = |i: usize| if (i % 64 / 8 + i / 512).is_multiple_of(2) { 0 } else { 255 };
    [b"P5 64 64 255\n".to_vec(), (0..64 * 64).map(pixel).collect()].concat()
}

/// An error ends a job, and a chain of stages, although a later object never arrives.
#[test]
fn an_error_does_not_wait_for_a_request_that_stalls() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..40).map(|i| format!("in/{i:02}.pgm")), photo().into());
    memory.seed("lab", "in/03.pgm", "no image");
    server.plan(|asked| {
        let is_late = *asked.path > *"/lab/in/03.pgm";
        is_late.then_some(Fault::Late(Duration::from_mins(10)))
    });
    let orb = OrbParams::default().with_edge_threshold(3).with_patch_size(5).build().unwrap();
    let source = || {
        let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
        S3Source::new(&s3, "s3://lab/in").unwrap()
    };
    let four = Parallelism::new(4).unwrap();
    let job =
        || Pipeline::new(source(), orb.clone(), NullSink::default()).with_parallelism(four.clone());
    let chain = |images: Box<dyn Iterator<Item = Result<ImageObject>> + Send>| {
        let rows =
            images.features(&orb).with_parallelism(four.clone()).explode().with_batch_rows(100);
        rows.write_to(NullSink::default()).unwrap_err()
    };
    let ways: [(&str, &dyn Fn() -> Error); 4] = [
        ("a job", &|| job().without_pca().run().unwrap_err()),
        ("a job of two passes", &|| job().with_pca(PcaParams::new(2)).run().unwrap_err()),
        ("a chain", &|| chain(Box::new(source().open().unwrap()))),
        ("a chain with a stage before", &|| {
            chain(Box::new(source().open().unwrap().par_map(
                four.clone(),
                || (),
                |(), image| image,
            )))
        }),
    ];
    for (what, run) in ways {
        let start = Instant::now();
        let error = run();
        assert_eq!(error.uri(), Some("s3://lab/in/03.pgm"), "{what}: {error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: {:?}", start.elapsed());
    }
}

#[test]
fn objects_that_are_archived_or_partly_closed_are_no_want_of_access() {
    let (memory, server) = serve(&[]);
    memory.seed_many("lab", (0..60).map(|i| format!("in/{i:03}.jpg")), "x".into());
    for (but, code, cause) in [
        ("000.jpg", "AccessDenied", "denied"),
        ("none", "InvalidObjectState", "refused"),
        ("none", "AccessDenied", "no access"),
    ] {
        server.plan(move |asked| {
            let is_denied = asked.path.len() > "/lab/in/".len() && !asked.path.ends_with(but);
            is_denied.then_some(Fault::Error(403, code))
        });
        let from = source(&server, "s3://lab/in");
        let job = Pipeline::new(from, OrbParams::default().build().unwrap(), NullSink::default());
        let error = job.without_pca().with_on_error(OnError::Skip).run().unwrap_err();
        assert_eq!(matches!(error, Error::NoAccess { .. }), cause == "no access", "{error}");
        assert!(error.to_line().contains(cause), "{error}");
    }
}

#[test]
fn what_is_asked_of_folders_is_refused_of_a_single_object() {
    let (_memory, server) = serve(&[("x/a.jpg", b"2"), ("x/odd", b"3")]);
    let select = Selection::default;
    for (selection, name) in [
        (select().with_glob("*.png"), "glob: *.png"),
        (select().with_extensions(["jpg", "png"]), "extensions: jpg,png"),
        (select().with_sizes(1..), "sizes: "),
        (select().with_recursive(false), "recursive: false"),
    ] {
        let source = source(&server, "s3://lab/x/a.jpg").with_selection(selection);
        let line = source.open().unwrap_err().to_line();
        assert!(line.contains(name) && line.contains("s3://lab/x/a.jpg is a single"), "{line}");
    }
    let label = select().with_label(LabelRule::None);
    let odd = all(source(&server, "s3://lab/x/odd").with_selection(label)).remove(0).unwrap();
    assert_eq!((odd.uri.as_str(), odd.label), ("s3://lab/x/odd", None));
}

/// A prefix with keys below it is a folder, even if a console has left an object of the same name.
#[test]
fn filters_are_for_folders_that_have_an_object_in_their_place() {
    let select = Selection::default;
    let objects: [&[(&str, &[u8])]; 2] = [
        &[("ph", b""), ("ph/a.jpg", b"1"), ("ph/sub/b.jpg", b"2")],
        &[("ph/", b""), ("ph/a.jpg", b"1")],
    ];
    for objects in objects {
        let (_memory, server) = serve(objects);
        for location in ["s3://lab/ph", "s3://lab/ph/"] {
            for selection in [select().with_glob("none*.jpg"), select().with_glob("x/*.jpg")] {
                let images = source(&server, location).with_selection(selection).open().unwrap();
                let outcomes: Vec<_> = images.collect();
                assert!(matches!(&outcomes[..], [Err(Error::NoInput { .. })]), "{outcomes:?}");
            }
            let selection = select().with_glob("a*");
            let found = uris(source(&server, location).with_selection(selection));
            assert_eq!(found, ["s3://lab/ph/a.jpg"]);
        }
    }
    let (_memory, server) = serve(&[("ph", b""), ("ph/sub/b.jpg", b"2")]);
    let selection = select().with_recursive(false);
    let images = source(&server, "s3://lab/ph").with_selection(selection).open().unwrap();
    assert!(matches!(images.collect::<Vec<_>>()[..], [Err(Error::NoInput { .. })]));
}

const XML: &str = "Content-Type: application/xml\r\n";

#[test]
fn listings_that_no_server_of_sense_gives_are_refused() {
    let page = |more: &str, content: &str| {
        format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>lab</Name><IsTruncated>{}</IsTruncated>{more}\
             <Contents><Key>{content}</Key><Size>1</Size></Contents></ListBucketResult>",
            !more.is_empty()
        )
    };
    let again = "<NextContinuationToken>x</NextContinuationToken>";
    for (body, says, most) in [
        (page("", &format!("in/{}", "k".repeat(17 << 20))), "longer than any", 1),
        (page("", &format!("in/{}", "k".repeat(1022))), "1025 bytes", 1),
        (page("", &format!("in/{}", "k".repeat(70_000))), "70003 bytes", 1),
        (page(again, "other/a.txt"), "does not go on", 2),
    ] {
        let server = Scripted::start(move |_, _| answer("200 OK", XML, body.as_bytes()));
        let s3 = server.params().connect().unwrap();
        let images = S3Source::new(&s3, "s3://lab/in").unwrap().open();
        let error = images.and_then(|mut images| images.next().unwrap()).unwrap_err();
        let line = error.to_line();
        assert!(matches!(error, Error::List { .. }) && line.contains(says), "{says}: {line}");
        assert_eq!(server.requests(), most, "{says}");
    }
}

/// Two versions could be put together otherwise: their lengths may be the same.
#[test]
fn a_body_without_an_etag_is_not_resumed() {
    let bytes = noise(1_000_000, 7);
    let (body, heads) = (bytes.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&heads);
    let server = Scripted::start(move |n, head| {
        if n == 0 {
            let page = "<ListBucketResult><Name>lab</Name><IsTruncated>false</IsTruncated><Contents>\
                        <Key>in/k.jpg</Key><Size>1000000</Size></Contents></ListBucketResult>";
            return answer("200 OK", XML, page.as_bytes());
        }
        seen.lock().unwrap().push(head.to_owned());
        let mut whole = answer("200 OK", "", &body);
        if n == 1 {
            whole.truncate(whole.len() - 300_000);
        }
        whole
    });
    let s3 = server.params().connect().unwrap();
    let image = all(S3Source::new(&s3, "s3://lab/in").unwrap()).remove(0).unwrap();
    assert!(image.bytes == bytes && image.retries == 1);
    let heads = heads.lock().unwrap();
    assert!(heads.len() == 2 && !heads[1].to_lowercase().contains("range:"), "{heads:?}");
}

#[test]
fn a_folder_without_a_name_is_no_label() {
    let (_memory, server) = serve(&[("in/a//c.png", b"1"), ("in//d.png", b"2")]);
    let labels: Vec<_> = all(source(&server, "s3://lab/in"))
        .into_iter()
        .map(|image| image.unwrap())
        .map(|image| (image.uri, image.label.unwrap()))
        .collect();
    let expected = [("s3://lab/in//d.png", "in"), ("s3://lab/in/a//c.png", "a")];
    assert_eq!(labels, expected.map(|(uri, label)| (uri.to_owned(), label.to_owned())));
}

/// An endless answer is cut off; it must not fill the memory.
#[test]
fn an_answer_without_an_end_is_not_read() {
    use std::io::{Read as _, Write as _};
    for status in ["200 OK", "403 Forbidden"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = connection.read(&mut [0; 1 << 12]).unwrap();
            write!(connection, "HTTP/1.1 {status}\r\ncontent-length: 99999999999\r\n\r\n").unwrap();
            let mut sent = 0_u64;
            while sent < 1 << 30 && connection.write_all(&[b' '; 1 << 12]).is_ok() {
                sent += 1 << 12;
            }
            sent
        });
        let s3 = S3Params::default()
            .with_endpoint_url(format!("http://{address}"))
            .with_region("eu-central-1")
            .with_credentials(ACCESS_KEY, SECRET_KEY, None)
            .with_attempts(1)
            .connect()
            .unwrap();
        let error = S3Source::new(&s3, "s3://lab/in").unwrap().open().unwrap_err();
        assert!(matches!(error, Error::List { .. }), "{error:?}");
        let sent = serving.join().unwrap();
        assert!(sent < 64 << 20, "{status}: {sent}");
    }
}

mod listing {
    //! Keys from files.

    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    const KEYS: [&str; 4] = ["in/b.jpg", "in/a b+c%.jpg", "in/ü/x.jpg", "in/sub/z.jpg"];

    fn serve_keys() -> (Memory, Server) {
        let mut objects: Vec<(&str, &[u8])> =
            KEYS.iter().map(|&key| (key, key.as_bytes())).collect();
        objects.extend([("other/no.jpg", &b"x"[..]), ("in/unlisted.jpg", b"x")]);
        serve(&objects)
    }

    fn expected() -> Vec<String> {
        // In the order of the file, not of the keys.
        KEYS.iter().map(|key| format!("s3://lab/{key}")).collect()
    }

    #[test]
    fn plain_lines() {
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let lines =
            "in/b.jpg\t8\nin/a b+c%.jpg\r\n\ns3://lab/in/ü/x.jpg\nin/sub/z.jpg\t12\nother/no.jpg\n";
        fs::write(&file, lines).unwrap();
        assert_eq!(uris(source(&server, "s3://lab/in").with_listing(&file)), expected());
        let one_level = source(&server, "s3://lab/in")
            .with_listing(&file)
            .with_selection(Selection::default().with_recursive(false));
        assert_eq!(uris(one_level), expected()[..2]);
        // An object that is longer than its listed size is not even read.
        fs::write(&file, "in/b.jpg\t3\n").unwrap();
        let error = all(source(&server, "s3://lab/in").with_listing(&file)).remove(0).unwrap_err();
        assert!(error.code() == "changed" && error.retries() == 0, "{error}");
        // An object that is shorter than its listed size has changed, and a key that does not exist has
        // vanished.
        fs::write(&file, "in/b.jpg\t9\nin/gone.jpg\nin/gone.jpg\t3\n").unwrap();
        let images = all(source(&server, "s3://lab/in").with_listing(&file));
        let codes: Vec<_> = images.iter().map(|i| i.as_ref().unwrap_err().code()).collect();
        assert_eq!(codes, ["changed", "vanished", "vanished"]);
        fs::write(file.with_extension("gz"), gzip("in/b.jpg\n")).unwrap();
        let zipped = source(&server, "s3://lab/in").with_listing(file.with_extension("gz"));
        assert_eq!(uris(zipped), expected()[..1]);
    }

    #[test]
    fn an_inventory_in_csv() {
        let (memory, server) = serve_keys();
        let data = "\"lab\",\"in/b.jpg\",\"v1\",\"true\",\"false\",\"8\",\"cb62c6fc76e7b37bc2c8f8e9e6f2a2f1\"\n\
                    \"lab\",\"in/b.jpg\",\"v0\",\"false\",\"false\",\"7\",\"\"\n\
                    \"lab\",\"in/a+b%2Bc%25.jpg\",\"\",\"true\",\"false\",\"13\",\"\"\n\
                    \"lab\",\"in/gone.jpg\",\"v2\",\"true\",\"true\",\"\",\"\"\n";
        let more = "\"lab\",\"in/%C3%BC/x.jpg\",\"\",\"true\",\"false\",\"11\",\"\"\n\
                    \"lab\",\"in/sub%2Fz.jpg\",\"\",\"true\",\"false\",\"12\",\"\"\n";
        let manifest = r#"{"sourceBucket": "lab", "destinationBucket": "arn:aws:s3:::reports",
            "fileFormat": "CSV", "creationTimestamp": "1",
            "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag",
            "files": [{"key": "inv/b/data/1.csv.gz", "size": 1}, {"key": "inv/b/data/2.csv.gz", "size": 1}]}"#;
        // Replaces the ETag by that of the object.
        let etag = md5_of(KEYS[0].as_bytes());
        let data = data.replace("cb62c6fc76e7b37bc2c8f8e9e6f2a2f1", &etag);
        memory.seed("reports", "inv/b/2026/manifest.json", manifest);
        memory.seed("reports", "inv/b/data/1.csv.gz", gzip(&data));
        memory.seed("reports", "inv/b/data/2.csv.gz", gzip(more));
        let remote = "s3://reports/inv/b/2026/manifest.json";
        assert_eq!(uris(source(&server, "s3://lab/in").with_listing(remote)), expected());
        // The same, copied to a folder.
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("2026")).unwrap();
        fs::create_dir_all(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("2026/manifest.json"), manifest).unwrap();
        fs::write(folder.path().join("data/1.csv.gz"), gzip(&data)).unwrap();
        fs::write(folder.path().join("data/2.csv.gz"), gzip(more)).unwrap();
        let local = folder.path().join("2026/manifest.json");
        assert_eq!(uris(source(&server, "s3://lab/in").with_listing(&local)), expected());
        // An object that was replaced after the inventory.
        memory.seed("lab", "in/b.jpg", "IN/B.JPG");
        let images = all(source(&server, "s3://lab/in").with_listing(remote));
        assert_eq!(images[0].as_ref().unwrap_err().code(), "changed");
        // A data file alone.
        let file = folder.path().join("x.csv");
        fs::write(&file, "lab,in/a+b%2Bc%25.jpg,13\nlab,in/sub/z.jpg\n").unwrap();
        let alone = uris(source(&server, "s3://lab/in").with_listing(&file));
        assert_eq!(alone, ["s3://lab/in/a b+c%.jpg", "s3://lab/in/sub/z.jpg"]);
    }

    fn md5_of(bytes: &[u8]) -> String {
        use md5::{Digest as _, Md5};
        Md5::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    fn array(column: impl arrow_array::Array + 'static) -> arrow_array::ArrayRef {
        Arc::new(column)
    }

    #[test]
    fn an_inventory_in_parquet() {
        use std::sync::Arc;

        use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
        use parquet::arrow::ArrowWriter;
        let (memory, server) = serve_keys();
        let mut keys = KEYS.to_vec();
        keys.extend(["in/old.jpg", "in/deleted.jpg", "other/no.jpg"]);
        let n = keys.len();
        // Size and ETag are null for some keys.
        let size = |key: &str| (key.len() > 8).then_some(key.len() as i64);
        let etag = |key: &str| (key.len() < 9).then(|| md5_of(key.as_bytes()));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("bucket", Arc::new(StringArray::from(vec!["lab"; n]))),
            ("key", Arc::new(StringArray::from(keys.clone()))),
            ("is_latest", array((0..n).map(|i| Some(i != 4)).collect::<BooleanArray>())),
            ("is_delete_marker", array((0..n).map(|i| Some(i == 5)).collect::<BooleanArray>())),
            ("size", array(keys.iter().map(|k| size(k)).collect::<Int64Array>())),
            ("e_tag", array(keys.iter().map(|k| etag(k)).collect::<StringArray>())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        memory.seed("lab", "inventory/1.parquet", bytes);
        let listing = "s3://lab/inventory/1.parquet";
        assert_eq!(uris(source(&server, "s3://lab/in").with_listing(listing)), expected());
    }

    /// A Parquet file without compression, and where its columns begin.
    fn parquet(columns: &[(&str, &str)]) -> (Vec<u8>, Vec<usize>) {
        use arrow_array::{RecordBatch, StringArray};
        use parquet::arrow::ArrowWriter;
        let columns =
            columns.iter().map(|&(name, value)| (name, array(StringArray::from(vec![value]))));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_dictionary_enabled(false)
            .build();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let metadata = writer.close().unwrap();
        let columns = metadata.row_group(0).columns();
        let starts = columns.iter().map(|column| column.data_page_offset() as usize).collect();
        (bytes, starts)
    }

    #[test]
    fn of_an_inventory_in_parquet_no_more_is_read_than_is_wanted() {
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.parquet");
        let listed = |bytes: Vec<u8>| {
            fs::write(&file, bytes).unwrap();
            source(&server, "s3://lab/in").with_listing(&file)
        };
        // A column that is not read may be large, and even broken.
        let long = "x".repeat(1 << 20);
        let (mut bytes, starts) =
            parquet(&[("bucket", "lab"), ("acl", &long), ("key", "in/b.jpg")]);
        bytes[starts[1]..starts[1] + 16].fill(0xff);
        assert_eq!(uris(listed(bytes)), ["s3://lab/in/b.jpg"]);
        for (name, other) in [("key", ("bucket", "lab")), ("e_tag", ("key", "in/b.jpg"))] {
            let line = listed(parquet(&[other, (name, &long)]).0).open().unwrap_err().to_line();
            assert!(line.contains(&format!("its column {name} has")) && line.len() < 300, "{line}");
        }
    }

    /// The file is small, as it holds the value once; the keys of a page would be 2.5 GB.
    #[test]
    fn a_long_value_that_all_rows_of_an_inventory_share_is_held_once() {
        use arrow_array::{RecordBatch, StringArray};
        use parquet::arrow::ArrowWriter;
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.parquet");
        let long = "x".repeat(5 << 19);
        let column = array(StringArray::from(vec![long.as_str(); 2]));
        let batch = RecordBatch::try_from_iter([("key", column)]).unwrap();
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_dictionary_page_size_limit(8 << 20)
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        for _ in 0..500 {
            writer.write(&batch).unwrap();
        }
        writer.close().unwrap();
        assert!(bytes.len() < 3 << 20);
        fs::write(&file, bytes).unwrap();
        let error = source(&server, "s3://lab/in").with_listing(&file).open();
        let line = error.and_then(|images| images.read().next().unwrap()).unwrap_err().to_line();
        assert!(line.contains("the key has 2621440 bytes"), "{line}");
    }

    #[test]
    fn an_inventory_of_many_files_has_its_columns_once() {
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x"), "in/b.jpg\n").unwrap();
        let manifest = |columns: usize, files: usize| {
            let path = folder.path().join("manifest.json");
            let schema = format!("key{}", ",a".repeat(columns));
            let files = vec![r#"{"key":"x"}"#; files].join(",");
            let text = format!(
                r#"{{"sourceBucket":"lab","destinationBucket":"d","fileFormat":"CSV","fileSchema":"{schema}","files":[{files}]}}"#
            );
            fs::write(&path, text).unwrap();
            source(&server, "s3://lab/in").with_listing(path)
        };
        // A copy of the columns for each file would take some 50 GB.
        let start = Instant::now();
        manifest(32_000, 60_000).open().unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        let line = manifest(33_000, 1).open().unwrap_err().to_line();
        assert!(line.contains("fileSchema is longer than 65536") && line.len() < 300, "{line}");
    }

    #[test]
    fn a_key_listed_n_times_gives_n_images() {
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        fs::write(&file, "in/b.jpg\nin/b.jpg\nin/sub/z.jpg\nin/b.jpg\n").unwrap();
        let found = uris(source(&server, "s3://lab/in").with_listing(&file));
        let [b, z] = ["s3://lab/in/b.jpg", "s3://lab/in/sub/z.jpg"];
        assert_eq!(found, [b, b, z, b]);
    }

    /// Very long lines, which are small when compressed.
    #[test]
    fn a_line_has_a_bound() {
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(64 << 20);
        for (name, text) in [
            ("lines.gz", format!("in/b.jpg\n{long}")),
            ("lines", format!("in/b.jpg\n{long}\n")),
            ("a.csv.gz", format!("lab,in/b.jpg,8\nlab,{long},8\n")),
            ("b.csv.gz", format!("lab,in/b.jpg,8\nlab,\"{}\",8\n", "x\n".repeat(32 << 20))),
            ("c.csv.gz", format!("lab,in/b.jpg,8\n{}", "lab,".repeat(16 << 20))),
        ] {
            let path = folder.path().join(name);
            let is_packed = name.contains(".gz");
            fs::write(&path, if is_packed { gzip(&text) } else { text.into_bytes() }).unwrap();
            assert!(!is_packed || fs::metadata(&path).unwrap().len() < 1 << 20);
            let last = all(source(&server, "s3://lab").with_listing(&path)).pop().unwrap();
            let line = last.unwrap_err().to_line();
            assert!(line.contains(name) && line.len() < 1000, "{name}");
            assert!(line.contains("line 2: ") && line.contains("longer than 65536"), "{line}");
        }
        // The longest possible key, in its longest encoding.
        let key = format!("in/{}.jpg", "é".repeat(508) + "x");
        assert_eq!(key.len(), 1024);
        let (memory, server) = serve(&[]);
        memory.seed("lab", &key, "x");
        let encoded = key.replace("é", "%C3%A9").replace('x', "%78");
        let acl = "A".repeat(32 << 10);
        fs::write(folder.path().join("d.csv"), format!("lab,{encoded},1,{acl}\n")).unwrap();
        fs::write(folder.path().join("d"), format!("s3://lab/{key}\t1\n")).unwrap();
        for name in ["d.csv", "d"] {
            let source = source(&server, "s3://lab").with_listing(folder.path().join(name));
            assert_eq!(uris(source), [format!("s3://lab/{key}")]);
        }
        fs::write(folder.path().join("e"), format!("{key}x\n")).unwrap();
        let source = source(&server, "s3://lab").with_listing(folder.path().join("e"));
        let line = all(source).pop().unwrap().unwrap_err().to_line();
        assert!(line.contains("line 1: the key has 1025 bytes"), "{line}");
    }

    #[test]
    fn sizes_are_selected_by_a_listing_that_gives_them() {
        let (_memory, server) = serve_keys();
        let path = tempfile::NamedTempFile::new().unwrap();
        let sized = |text: &str| {
            fs::write(path.path(), text).unwrap();
            let selection = Selection::default().with_sizes(1..);
            let source = source(&server, "s3://lab").with_selection(selection);
            all(source.with_listing(path.path()))
        };
        assert!(sized("s3://lab/in/b.jpg\t8\n").iter().all(Result::is_ok));
        let error = sized("in/b.jpg\n").pop().unwrap().unwrap_err().to_line();
        assert!(error.contains("does not give the size of in/b.jpg"), "{error}");
    }

    #[test]
    fn a_bad_listing_is_named() {
        let (_memory, server) = serve_keys();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text, says) in [
            ("missing.csv", None, "No such file"),
            ("x.json", Some("{}"), "missing field"),
            (
                "y.json",
                Some(
                    r#"{"sourceBucket":"c","destinationBucket":"d","fileFormat":"CSV","files":[]}"#,
                ),
                "of the bucket c, not lab",
            ),
            (
                "o.json",
                Some(
                    r#"{"sourceBucket":"lab","destinationBucket":"d","fileFormat":"ORC","files":[{"key":"k"}]}"#,
                ),
                "neither",
            ),
            ("x.orc", Some("ORC"), "Parquet"),
            ("x.parquet", Some("PAR0"), "x.parquet"),
        ] {
            if let Some(text) = text {
                fs::write(path(name), text).unwrap();
            }
            let error = source(&server, "s3://lab").with_listing(path(name)).open().unwrap_err();
            let line = error.to_line();
            assert!(line.contains(says) && line.contains(name), "{line}");
        }
        for (name, text, says) in [
            ("a.csv", "lab,in/b.jpg,8\nc,in/b.jpg,8\n", "line 2: it is of the bucket c"),
            ("b.csv", "lab,in/b.jpg,true\n", "line 1: the size is \"true\""),
            ("c.txt", "s3://c/in/b.jpg\n", "of the bucket c"),
            ("d.txt", "in/b.jpg\tbig\n", "the size of in/b.jpg"),
        ] {
            fs::write(path(name), text).unwrap();
            let last = all(source(&server, "s3://lab").with_listing(path(name))).pop().unwrap();
            let error = last.unwrap_err();
            assert!(matches!(error, Error::List { .. }));
            assert!(error.to_line().contains(says), "{}", error.to_line());
        }
    }
}
