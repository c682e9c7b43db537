//! The Parquet sink on S3, against a server in this process: all or nothing, whatever happens.
#![cfg(feature = "s3")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use bytes::Bytes;
use ndarray::Array2;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::s3::{Fault, Memory, Server};

const OUT: &str = "s3://lab/out";

fn serve() -> (Memory, Server) {
    let memory = Memory::with_bucket("lab");
    let server = Server::start(&memory);
    (memory, server)
}

/// Rows of one image whose path is `name`.
fn batch(name: &str, rows: u32, components: usize) -> RowBatch {
    let meta = Arc::new(ImageMeta::new(name).with_file(1000, None).with_shape(64, 64, 3));
    let row = |index: u32| {
        let descriptor = std::array::from_fn(|i| {
            (index.wrapping_mul(2_654_435_761) >> (i % 24)) as u8 ^ i as u8
        });
        (KeyPoint::default(), descriptor)
    };
    let batch = testkit::rows::batch([&testkit::rows::image(meta, (0..rows).map(row))]);
    batch.with_scores(Array2::from_elem((rows as usize, components), 0.5)).unwrap()
}

fn params(mode: WriteMode) -> FileParams {
    FileParams::default().with_mode(mode).with_rows_per_file(4)
}

/// Writes a result of three files, all of whose rows have the path `name`.
fn write(s3: &S3, mode: WriteMode, name: &str) -> Result<SinkReport> {
    let mut sink = FileSink::create_in_s3(s3, OUT, params(mode))?;
    sink.write(batch(name, 10, 2))?;
    sink.finish()
}

/// The paths of the rows of a Parquet file. They are remembered, as the tests look at the same files after every
/// request.
fn paths(file: &Bytes) -> Vec<String> {
    static KNOWN: Mutex<BTreeMap<Bytes, Vec<String>>> = Mutex::new(BTreeMap::new());
    if let Some(paths) = KNOWN.lock().unwrap().get(file) {
        return paths.clone();
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().build().unwrap();
    let mut all = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = batch.column(0).as_string::<i32>();
        all.extend(column.iter().map(|path| path.unwrap().to_owned()));
    }
    KNOWN.lock().unwrap().insert(file.clone(), all.clone());
    all
}

/// Number of rows by path, in the files that a reader of the prefix sees.
fn visible(memory: &Memory) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for (key, file) in memory.objects("lab", "out/") {
        if key.starts_with("out/part-") {
            for path in paths(&file) {
                *rows.entry(path).or_default() += 1;
            }
        }
    }
    rows
}

/// All keys except those of parts, and of the lists of images of their runs.
fn others(memory: &Memory) -> Vec<String> {
    let keys = memory.keys("lab", "");
    let (parts, others): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|key| key.starts_with("out/part-"));
    let is_of_parts = |key: &String| {
        let run = key.strip_prefix("out/_images/part-00000-");
        run.is_some_and(|run| parts.iter().any(|part| part.ends_with(run)))
    };
    others.into_iter().filter(|key| !is_of_parts(key)).collect()
}

/// The keys of a result's files.
fn files(memory: &Memory) -> Vec<String> {
    let keys = memory.keys("lab", "out/");
    keys.into_iter().filter(|key| key.ends_with(".parquet")).collect()
}

fn rows(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|&(name, rows)| (name.to_owned(), rows)).collect()
}

const DONE: [&str; 2] = ["out/_SUCCESS", "out/_manifest.json"];

/// A complete result of these rows, and nothing beside it.
fn complete(rows: BTreeMap<String, usize>) -> (BTreeMap<String, usize>, Vec<String>) {
    (rows, DONE.map(str::to_owned).to_vec())
}

#[test]
fn modes_are_those_of_a_folder() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let report = write(&s3, WriteMode::Error, "a").unwrap();
    assert_eq!((report.rows, report.files, report.path.as_deref()), (10, 3, Some(OUT)));
    let files = files(&memory);
    assert_eq!((files.len(), report.images), (4, 1));
    let size: usize = files.iter().map(|key| memory.objects("lab", key)[key.as_str()].len()).sum();
    assert_eq!(report.bytes, size as u64);
    assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("a", 10)])));

    let error = write(&s3, WriteMode::Error, "b").unwrap_err();
    assert!(
        matches!(error, Error::OutputExists { .. }) && error.to_line().contains(OUT),
        "{error}"
    );
    write(&s3, WriteMode::Append, "c").unwrap();
    assert_eq!(visible(&memory), rows(&[("a", 10), ("c", 10)]));
    write(&s3, WriteMode::Overwrite, "d").unwrap();
    assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("d", 10)])));
    assert!(memory.uploads().is_empty());
    // The manifest names exactly the files that exist.
    let manifest: serde_json::Value =
        serde_json::from_slice(&memory.objects("lab", "out/_manifest.json")["out/_manifest.json"])
            .unwrap();
    let named: Vec<_> = manifest["current"]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| format!("out/{}", file["name"].as_str().unwrap()))
        .collect();
    let mut named = named;
    named.sort();
    assert_eq!(named, self::files(&memory));
    assert_eq!(s3.retries(), 0);
}

#[test]
fn a_prefix_that_is_no_result_is_not_touched() {
    let (memory, server) = serve();
    let s3 = server.connect();
    memory.seed("lab", "out/thesis.tex", "dear");
    for mode in [WriteMode::Error, WriteMode::Overwrite] {
        let line = write(&s3, mode, "a").unwrap_err().to_line();
        assert!(line.contains("s3://lab/out"), "{line}");
        assert_eq!(memory.keys("lab", ""), ["out/thesis.tex"]);
    }
    memory.remove("lab", "out/thesis.tex");
    memory.seed("lab", "out/deep/er/x.txt", "x");
    let line = write(&s3, WriteMode::Overwrite, "a").unwrap_err().to_line();
    assert!(line.contains("\"deep/\""), "{line}");
    memory.remove("lab", "out/deep/er/x.txt");

    // A prefix that only begins with the same characters is another place.
    memory.seed("lab", "outer/part-00000.parquet", "x");
    write(&s3, WriteMode::Error, "a").unwrap();
    write(&s3, WriteMode::Overwrite, "b").unwrap();
    assert_eq!(memory.keys("lab", "outer/").len(), 1);

    // A result of Spark's is replaced, or added to.
    for (mode, left) in [(WriteMode::Append, 1), (WriteMode::Overwrite, 0)] {
        let (memory, server) = serve();
        let spark = memory_of_spark(&memory);
        let s3 = server.connect();
        assert!(matches!(write(&s3, WriteMode::Error, "a"), Err(Error::OutputExists { .. })));
        write(&s3, mode, "a").unwrap();
        assert_eq!(visible(&memory).get("spark").copied().unwrap_or(0), left * 10);
        assert_eq!(memory.keys("lab", "out/").contains(&spark), left == 1);
    }
}

/// Puts a result as Spark does, but with our columns; returns the key of its file.
fn memory_of_spark(memory: &Memory) -> String {
    let (other, server) = serve();
    let params = FileParams::default();
    let mut sink = FileSink::create_in_s3(&server.connect(), OUT, params).unwrap();
    sink.write(batch("spark", 10, 2)).unwrap();
    sink.finish().unwrap();
    let (_, file) = other.objects("lab", "out/part-").into_iter().next().unwrap();
    let key = "out/part-00000-6f1c1a40-93cb-4a43-8d5f-1a0f2f0f1b5e-c000.snappy.parquet";
    memory.seed("lab", key, file);
    memory.seed("lab", "out/_SUCCESS", "");
    key.to_owned()
}

#[test]
fn nothing_is_visible_before_the_end_and_nothing_left_without_it() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Error)).unwrap();
    sink.write(batch("a", 10, 2)).unwrap();
    let failure = || {
        let mut batch = batch("a", 0, 2);
        batch.push_failed(FailedImage::new(
            Some("x.jpg".to_owned()),
            "decode",
            "corrupt",
            "broken",
        ));
        batch
    };
    for _ in 0..2000 {
        sink.write(failure()).unwrap();
    }
    assert_eq!(memory.uploads().len(), 5);
    assert!(memory.keys("lab", "").iter().all(|key| key.starts_with("out/_work/")));
    drop(sink);
    assert!(memory.keys("lab", "").is_empty() && memory.uploads().is_empty());

    // The same run, but finished.
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Error)).unwrap();
    sink.write(batch("a", 10, 2)).unwrap();
    sink.write(failure()).unwrap();
    assert_eq!(sink.finish().unwrap().failures, 1);
    assert_eq!(memory.keys("lab", "out/_errors/part-00000-").len(), 1);
    // An overwrite also removes the recorded failures of the old result.
    write(&s3, WriteMode::Overwrite, "b").unwrap();
    assert!(memory.keys("lab", "out/_errors/").is_empty());
}

#[test]
fn an_empty_result_shows_the_columns() {
    let (memory, server) = serve();
    let mut sink =
        FileSink::create_in_s3(&server.connect(), "s3://lab", FileParams::default()).unwrap();
    sink.write(batch("a", 0, 2)).unwrap();
    assert_eq!(sink.finish().unwrap().files, 1);
    let files = memory.objects("lab", "part-");
    assert!(paths(files.values().next().unwrap()).is_empty());
}

#[test]
fn large_files_go_up_in_parts_of_bounded_memory() {
    let (memory, server) = serve();
    let parts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&parts);
    server.plan(move |asked| {
        if asked.query.contains("partNumber") {
            let length = asked.headers["content-length"].to_str().unwrap().parse::<u64>().unwrap();
            seen.lock().unwrap().push(length);
        }
        None
    });
    let params = FileParams::default()
        .with_codec(Codec::Uncompressed)
        .with_row_group_rows(20_000)
        .with_table(TableParams::default().with_score_width(ScoreWidth::F64));
    let mut sink = FileSink::create_in_s3(&server.connect(), OUT, params).unwrap();
    let n = 150_000;
    for _ in 0..n / 10_000 {
        sink.write(batch("a", 10_000, 20)).unwrap();
    }
    // Most parts are uploaded before the end.
    assert!(parts.lock().unwrap().len() >= 3);
    let report = sink.finish().unwrap();
    assert!(report.bytes > 25 << 20, "{}", report.bytes);
    assert_eq!(visible(&memory), rows(&[("a", n as usize)]));
    let parts = parts.lock().unwrap();
    // The last two are the ends of the rows and of the list of images.
    assert!(parts[..parts.len() - 2].iter().all(|&bytes| bytes == 5 << 20), "{parts:?}");
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append)).unwrap();
    let line = sink.write(batch("b", 10, 3)).unwrap_err().to_line();
    assert!(line.contains("columns differ from those of s3://lab/out/part-00000-"), "{line}");
    drop(sink);
    assert_eq!((visible(&memory), memory.uploads().len()), (rows(&[("a", 10)]), 0));
}

#[test]
fn columns_that_change_while_a_run_appends_are_seen() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append)).unwrap();
    sink.write(batch("b", 10, 2)).unwrap();
    let mut other = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Overwrite)).unwrap();
    other.write(batch("c", 10, 3)).unwrap();
    other.finish().unwrap();
    let line = sink.finish().unwrap_err().to_line();
    assert!(line.contains("columns differ"), "{line}");
    assert_eq!((visible(&memory), memory.uploads().len()), (rows(&[("c", 10)]), 0));
}

/// A slow run deletes the old mark only after another run has put the new one.
#[test]
fn a_late_deletion_does_not_lose_the_mark() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    server.plan(|asked| {
        let is_first = asked.method == "DELETE" && asked.path == "/lab/out/_SUCCESS";
        (is_first && asked.seen == 0).then_some(Fault::Late(Duration::from_millis(900)))
    });
    let slow = server.params().with_timeout(Duration::from_mins(1)).connect().unwrap();
    let slow = std::thread::spawn(move || write(&slow, WriteMode::Overwrite, "b"));
    while memory.keys("lab", "out/_manifest.json").is_empty()
        || !String::from_utf8_lossy(
            &memory.objects("lab", "out/_manifest.json")["out/_manifest.json"],
        )
        .contains("pending")
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    // This run finishes the commit of the slow one.
    write(&s3, WriteMode::Append, "c").unwrap();
    slow.join().unwrap().unwrap();
    assert_eq!(visible(&memory), rows(&[("b", 10), ("c", 10)]));
    assert_eq!(others(&memory), DONE.map(str::to_owned).to_vec());
}

#[test]
fn it_works_inside_another_runtime() {
    let (memory, server) = serve();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let params = params(WriteMode::Error).with_rows_per_file(1);
        let mut sink = FileSink::create_in_s3(&server.connect(), OUT, params).unwrap();
        sink.write(batch("a", 200, 2)).unwrap();
        assert_eq!(sink.finish().unwrap().files, 200);
    });
    assert_eq!(visible(&memory), rows(&[("a", 200)]));
}

#[test]
fn a_server_without_conditions_on_writes_is_refused() {
    let (memory, server) = serve();
    memory.ignore_conditions();
    let line = write(&server.connect(), WriteMode::Error, "a").unwrap_err().to_line();
    assert!(line.contains("does not check conditions on writes"), "{line}");
    assert!(memory.keys("lab", "").is_empty());
    let alone = server.params().with_conditional_writes(false).connect().unwrap();
    write(&alone, WriteMode::Error, "a").unwrap();
    write(&alone, WriteMode::Overwrite, "b").unwrap();
    assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("b", 10)])));
    // A server that says so, with an error.
    server.plan(|asked| {
        let is_conditional = asked.headers.contains_key("if-none-match");
        is_conditional.then_some(Fault::Error(501, "NotImplemented"))
    });
    let line = write(&server.connect(), WriteMode::Overwrite, "c").unwrap_err().to_line();
    assert!(line.contains("does not check conditions on writes"), "{line}");
    write(&alone, WriteMode::Overwrite, "d").unwrap();
    assert_eq!(visible(&memory), rows(&[("d", 10)]));
    // A server that refuses conditions only for existing objects, and one that denies access instead.
    for (status, code, says) in [
        (501, "NotImplemented", "does not check conditions on writes"),
        (403, "AccessDenied", "access denied"),
    ] {
        let (memory, server) = serve();
        server.plan(move |asked| {
            let is_conditional = asked.headers.contains_key("if-match");
            is_conditional.then_some(Fault::Error(status, code))
        });
        let line = write(&server.connect(), WriteMode::Error, "a").unwrap_err().to_line();
        assert!(line.contains(says), "{line}");
        assert!(memory.keys("lab", "").is_empty());
    }
}

#[test]
fn what_the_server_refuses_is_named() {
    let (memory, server) = serve();
    let denied = |part: &'static str| {
        server.plan(move |asked| {
            let request = format!("{} {}?{}", asked.method, asked.path, asked.query);
            request.contains(part).then_some(Fault::Error(403, "AccessDenied"))
        });
    };
    for part in ["PUT /lab/out/_work/", "POST /lab/out/part-", "partNumber=1"] {
        denied(part);
        let line = write(&server.connect(), WriteMode::Error, "a").unwrap_err().to_line();
        assert!(
            line.contains("s3://lab/out") && line.contains("access denied (AccessDenied"),
            "{line}"
        );
        server.heal();
        assert!(visible(&memory).is_empty() && memory.uploads().is_empty());
    }
    let line =
        FileSink::create_in_s3(&server.connect(), "s3://nobucket/out", params(WriteMode::Error))
            .unwrap_err()
            .to_line();
    assert!(line.contains("s3://nobucket/out") && line.contains("bucket does not exist"), "{line}");
}

/// Calls `act` at the first request after the point of no return.
fn when_a_commit_has_begun(server: &Server, act: impl Fn() + Send + Sync + 'static) {
    server.plan(move |asked| {
        if asked.method == "DELETE" && asked.path.ends_with("_SUCCESS") && asked.seen == 0 {
            act();
        }
        None
    });
}

#[test]
fn uploads_that_the_server_loses_leave_the_old_result() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    let before = memory.objects("lab", "");
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Overwrite)).unwrap();
    sink.write(batch("b", 10, 2)).unwrap();
    memory.lose_uploads();
    let line = sink.finish().unwrap_err().to_line();
    // The upload of the last file had begun before, and was lost with the others.
    assert!(line.contains("out"), "{line}");
    assert_eq!(memory.objects("lab", ""), before);

    // The same after the point of no return.
    let store = memory.clone();
    when_a_commit_has_begun(&server, move || store.lose_uploads());
    let line = write(&s3, WriteMode::Overwrite, "c").unwrap_err().to_line();
    assert!(line.contains("lost the uploads of part-00000-"), "{line}");
    server.heal();
    assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("a", 10)])));
    write(&s3, WriteMode::Overwrite, "d").unwrap();
    assert_eq!(visible(&memory), rows(&[("d", 10)]));
}

/// The first attempt at every request fails: executed with its answer lost, or not executed.
#[test]
fn answers_that_are_lost_change_nothing() {
    for fault in [Fault::ErrorAfterEffect, Fault::ResetAfterEffect, Fault::Error(503, "SlowDown")] {
        let (memory, server) = serve();
        let s3 = server.connect();
        let planned = fault.clone();
        server.plan(move |asked| (asked.seen == 0).then(|| planned.clone()));
        for (mode, name) in
            [(WriteMode::Error, "a"), (WriteMode::Append, "b"), (WriteMode::Overwrite, "c")]
        {
            let report =
                write(&s3, mode, name).unwrap_or_else(|e| panic!("{fault:?} {}", e.to_line()));
            assert!(report.retries > 10, "{report:?}");
        }
        server.heal();
        assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("c", 10)])));
        assert!(memory.uploads().is_empty(), "{fault:?} {:?}", memory.uploads());
    }
}

/// A violation for a reader, who must see the whole result of exactly one of these runs.
fn violation(memory: &Memory, runs: &[&str]) -> Option<String> {
    testkit::s3::violation(memory, "lab", "out", |files| {
        let mut found = BTreeMap::<String, usize>::new();
        for path in files.iter().flat_map(paths) {
            *found.entry(path).or_default() += 1;
        }
        found.len() == 1 && runs.iter().any(|run| found.get(*run) == Some(&10))
    })
}

/// A run dies at each of its requests, before or after its effect; the next run succeeds, and no
/// reader has ever seen a part of a result.
fn dies_at_any_request(after: bool, twice: bool) {
    let mut requests = 0;
    loop {
        let (memory, server) = serve();
        let calm = server.connect();
        write(&calm, WriteMode::Error, "old").unwrap();
        let violations = Arc::new(Mutex::new(BTreeSet::new()));
        let left = Arc::new(AtomicI64::new(requests));
        let (store, seen, counter) = (memory.clone(), Arc::clone(&violations), Arc::clone(&left));
        server.plan(move |_| {
            seen.lock().unwrap().extend(violation(&store, &["old", "new", "next"]));
            match counter.fetch_sub(1, Ordering::SeqCst) {
                1.. => None,
                0 if after => Some(Fault::ResetAfterEffect),
                // From here on the process counts as dead: all requests fail.
                _ => Some(Fault::Error(403, "Dead")),
            }
        });
        // No retries: a dead process does not try again.
        let mortal = server.params().with_attempts(1).connect().unwrap();
        let first = write(&mortal, WriteMode::Overwrite, "new");
        let was_hit = left.load(Ordering::SeqCst) < 0;
        if twice && was_hit {
            // The next run dies, too, while it clears up.
            memory.age("lab", "out/_work/", Duration::from_hours(1));
            left.store(requests / 2 + 1, Ordering::SeqCst);
            let _ = write(&mortal, WriteMode::Overwrite, "new");
        }
        left.store(i64::MAX, Ordering::SeqCst);
        // This process lives on, so only the age of the lease tells that the run is dead.
        memory.age("lab", "out/_work/", Duration::from_hours(1));
        let next = write(&calm, WriteMode::Overwrite, "next");
        let what = format!("after {requests} requests ({after} {twice}): {first:?}");
        next.unwrap_or_else(|e| panic!("{what} {}", e.to_line()));
        violations.lock().unwrap().extend(violation(&memory, &["next"]));
        assert_eq!(*violations.lock().unwrap(), BTreeSet::new(), "{what}");
        assert_eq!(others(&memory), DONE.map(str::to_owned).to_vec(), "{what}");
        assert_eq!(memory.uploads(), Vec::<String>::new(), "{what}");
        if !was_hit {
            assert!(first.is_ok() && requests > 30, "{requests} {first:?}");
            break;
        }
        requests += 1;
    }
}

#[test]
fn a_run_may_die_before_any_request() {
    dies_at_any_request(false, false);
}

#[test]
fn a_run_may_die_after_any_request() {
    dies_at_any_request(true, false);
}

#[test]
fn two_runs_may_die_before_any_request() {
    dies_at_any_request(false, true);
}

#[test]
fn two_runs_may_die_after_any_request() {
    dies_at_any_request(true, true);
}

#[test]
fn of_runs_that_race_one_wins() {
    for round in 0..8 {
        for (mode, winners) in
            [(WriteMode::Error, 1..=1), (WriteMode::Overwrite, 3..=3), (WriteMode::Append, 3..=3)]
        {
            let (memory, server) = serve();
            let names = ["a", "b", "c"];
            let run = |name: &'static str| {
                let s3 = server.connect();
                std::thread::spawn(move || write(&s3, mode, name))
            };
            let threads = names.map(run);
            let outcomes = threads.map(|thread| thread.join().unwrap());
            let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert!(winners.contains(&won), "{mode:?} {outcomes:?}");
            for error in outcomes.into_iter().filter_map(Result::err) {
                assert!(matches!(error, Error::OutputExists { .. }), "{error:?}");
            }
            let found = visible(&memory);
            let expected = if mode == WriteMode::Append { 3 } else { 1 };
            assert_eq!(found.len(), expected, "round {round} {mode:?}: {found:?}");
            assert!(found.values().all(|&rows| rows == 10), "{found:?}");
            assert_eq!(others(&memory), DONE.map(str::to_owned).to_vec());
            assert!(memory.uploads().is_empty());
        }
    }
}

#[test]
fn a_run_that_lives_is_left_alone() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let mut long = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append)).unwrap();
    long.write(batch("long", 10, 2)).unwrap();
    let uploads = memory.uploads().len();
    write(&s3, WriteMode::Append, "quick").unwrap();
    assert_eq!(memory.uploads().len(), uploads);
    long.finish().unwrap();
    assert_eq!(visible(&memory), rows(&[("long", 10), ("quick", 10)]));
}

#[test]
fn an_interrupt_ends_the_waiting_and_leaves_nothing() {
    let (memory, server) = serve();
    let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Error)).unwrap();
    server.plan(|asked| {
        asked.query.contains("partNumber").then_some(Fault::Late(Duration::from_mins(10)))
    });
    let other = s3.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        other.interrupt();
    });
    assert!(matches!(sink.write(batch("a", 10, 2)), Err(Error::Interrupted)));
    drop(sink);
    assert!(memory.keys("lab", "").is_empty() && memory.uploads().is_empty());
}

/// Puts a manifest, and a file for each name, into the output; returns all keys.
fn seed_manifest(memory: &Memory, manifest: &serde_json::Value, names: &[&str]) -> Vec<String> {
    for name in names {
        memory.seed("lab", &format!("out/{name}"), "dear");
    }
    memory.seed("lab", "out/_manifest.json", manifest.to_string());
    memory.keys("lab", "")
}

const RUN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_manifest_that_names_other_files_is_refused_and_nothing_deleted() {
    let file = |name: &str| serde_json::json!({ "name": name, "size": 4, "rows": null });
    let part = format!("part-00000-{RUN}.parquet");
    let other_part = format!("part-00000-{}.parquet", RUN.replace('0', "f"));
    let names = [
        "sub/precious.jpg",
        "precious.jpg",
        "../in/precious.jpg",
        "_errors/../precious.jpg",
        "_errors/sub/part-00000-x.parquet",
        "_work/x.json",
        "_SUCCESS",
        "_manifest.json",
        "",
    ];
    for name in names {
        let current = |name: &str| serde_json::json!({ "run": RUN, "files": [file(name)] });
        let pending = |kept: &str, garbage: &str, upload: &str| {
            let upload = serde_json::json!({ "file": file(upload), "upload": "1", "parts": [] });
            let (kept, garbage) = ([file(kept)], [garbage]);
            serde_json::json!({ "run": RUN, "uploads": [upload], "kept": kept, "garbage": garbage })
        };
        let old = "part-00000-6f1c1a40-c000.snappy.parquet";
        for (field, value) in [
            ("current", current(name)),
            ("pending", pending(name, old, &part)),
            ("pending", pending(old, name, &part)),
            ("pending", pending("part-1.parquet", old, name)),
            // A name of the right form, but of another run.
            ("pending", pending("part-1.parquet", old, &other_part)),
            ("finishing", serde_json::json!({ "garbage": [name] })),
        ] {
            for mode in [WriteMode::Error, WriteMode::Overwrite, WriteMode::Append] {
                let (memory, server) = serve();
                memory.seed("lab", "in/precious.jpg", "dear");
                let mut manifest = serde_json::json!({
                    "format": "orb_features.manifest", "format_version": 1, "generation": 1,
                    "current": null,
                });
                manifest[field] = value.clone();
                let named = ["sub/precious.jpg", "precious.jpg", &part, "part-1.parquet", old];
                let before = seed_manifest(&memory, &manifest, &named);
                let line = write(&server.connect(), mode, "a").unwrap_err().to_line();
                assert!(line.contains("_manifest.json is not one that"), "{manifest} {line}");
                assert_eq!(memory.keys("lab", ""), before, "{manifest}");
            }
        }
    }
}

#[test]
fn a_manifest_of_others_or_of_the_future_is_refused_in_every_mode() {
    let ours = serde_json::json!({
        "format": "orb_features.manifest", "format_version": 1, "generation": 0, "current": null,
    });
    let with = |field: &str, value: serde_json::Value| {
        let mut changed = ours.clone();
        changed[field] = value;
        changed
    };
    for (manifest, says) in [
        // The manifest of a web app.
        (serde_json::json!({ "version": 3, "name": "app", "icons": [] }), "\"format\" is not"),
        // As this crate wrote it before the manifest had a format field.
        (serde_json::json!({ "version": 1, "current": null, "recent": [] }), "\"format\" is not"),
        (
            serde_json::json!({ "version": 1, "current": null,
                "finishing": { "garbage": ["sub/precious.jpg"] } }),
            "\"format\" is not",
        ),
        (with("format", "other".into()), "\"format\" is not"),
        (with("format", 1.into()), "\"format\" is not"),
        (with("format_version", 2.into()), "format 2 is newer than 1"),
        (with("format_version", 0.into()), "format 0 was never written"),
        (with("generation", u64::MAX.into()), "generation 18446744073709551615"),
        (
            with(
                "pending",
                serde_json::json!({ "run": RUN, "uploads": [], "kept": [],
                    "garbage": ["part-1.parquet"] }),
            ),
            "is to commit no file",
        ),
        (with("name", "app".into()), "unknown field `name`"),
        (
            with("finishing", serde_json::json!({ "garbage": [], "more": 1 })),
            "unknown field `more`",
        ),
        (with("recent", serde_json::json!([{ "run": "../x", "committed": true }])), "is no run"),
        (serde_json::json!([1]), "_manifest.json"),
    ] {
        for mode in [WriteMode::Error, WriteMode::Overwrite, WriteMode::Append] {
            let (memory, server) = serve();
            let before = seed_manifest(&memory, &manifest, &["sub/precious.jpg"]);
            let line = write(&server.connect(), mode, "a").unwrap_err().to_line();
            assert!(line.contains(OUT) && line.contains(says), "{manifest} {line}");
            assert_eq!(memory.keys("lab", ""), before);
            let text = memory.objects("lab", "out/_manifest.json")["out/_manifest.json"].clone();
            assert_eq!(text, manifest.to_string());
        }
    }
    let (memory, server) = serve();
    seed_manifest(&memory, &ours, &[]);
    write(&server.connect(), WriteMode::Error, "a").unwrap();
}

#[test]
fn what_is_read_of_the_output_is_bounded() {
    let (memory, server) = serve();
    memory.seed("lab", "out/_manifest.json", vec![b' '; (64 << 20) + 1]);
    let line = write(&server.connect(), WriteMode::Overwrite, "a").unwrap_err().to_line();
    assert!(line.contains("_manifest.json") && line.contains("longer than 67108864"), "{line}");
    memory.remove("lab", "out/_manifest.json");
    write(&server.connect(), WriteMode::Overwrite, "a").unwrap();
    // Foreign content as the mark and as a lease, and a foreign object among the leases.
    memory.seed("lab", "out/_SUCCESS", vec![b'x'; 1 << 20]);
    memory.seed("lab", &format!("out/_work/{RUN}.json"), vec![b'x'; 1 << 20]);
    memory.seed("lab", "out/_work/thesis.json", "dear");
    // A foreign object that is named like a lease.
    let named = format!("out/_work/{}.json", RUN.replace('0', "f"));
    memory.seed("lab", &named, "{\"title\": \"thesis\"}");
    memory.age("lab", "out/_work/", Duration::from_hours(1));
    write(&server.connect(), WriteMode::Append, "b").unwrap();
    assert_eq!(visible(&memory), rows(&[("a", 10), ("b", 10)]));
    assert!(memory.objects("lab", "out/_SUCCESS")["out/_SUCCESS"].len() == 32);
    let left = memory.keys("lab", "out/_work/");
    assert!(
        left.contains(&"out/_work/thesis.json".to_owned()) && left.contains(&named),
        "{left:?}"
    );
}

#[test]
fn files_that_somebody_deleted_leave_the_manifest() {
    let (memory, server) = serve();
    write(&server.connect(), WriteMode::Error, "a").unwrap();
    let gone = memory.keys("lab", "out/part-").swap_remove(1);
    memory.remove("lab", &gone);
    write(&server.connect(), WriteMode::Append, "b").unwrap();
    let manifest = memory.objects("lab", "out/_manifest.json")["out/_manifest.json"].clone();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["current"]["files"].as_array().unwrap();
    let mut named: Vec<_> =
        files.iter().map(|file| format!("out/{}", file["name"].as_str().unwrap())).collect();
    named.sort();
    assert_eq!(named, self::files(&memory));
    // The numbers of rows of the other files are kept.
    assert!(files.iter().all(|file| file["rows"].is_u64()), "{files:?}");
}

#[test]
fn of_a_file_that_somebody_replaced_nothing_is_known_any_more() {
    let (memory, server) = serve();
    write(&server.connect(), WriteMode::Error, "a").unwrap();
    let keys = memory.keys("lab", "out/part-");
    let other = memory.objects("lab", "out/part-")[&keys[2]].clone();
    assert_ne!(other.len(), memory.objects("lab", "out/part-")[&keys[0]].len());
    memory.seed("lab", &keys[0], other.clone());
    write(&server.connect(), WriteMode::Append, "b").unwrap();
    let manifest = memory.objects("lab", "out/_manifest.json")["out/_manifest.json"].clone();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["current"]["files"].as_array().unwrap();
    let replaced = files.iter().find(|f| keys[0].ends_with(f["name"].as_str().unwrap())).unwrap();
    assert_eq!(
        (replaced["size"].as_u64(), &replaced["rows"]),
        (Some(other.len() as u64), &serde_json::Value::Null)
    );
}

/// An object with the key of a lost upload is not taken for its file.
#[test]
fn another_file_in_the_place_of_a_lost_one_is_not_the_result() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    let store = memory.clone();
    when_a_commit_has_begun(&server, move || {
        for key in store.uploads() {
            store.seed("lab", &key, b"another".to_vec());
        }
        store.lose_uploads();
    });
    let line = write(&s3, WriteMode::Overwrite, "c").unwrap_err().to_line();
    assert!(line.contains("lost the uploads of part-00000-"), "{line}");
    server.heal();
    assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("a", 10)])));
}

/// A refused completion does not mean that the upload is lost: the next run finishes the commit.
#[test]
fn an_upload_whose_completion_is_refused_is_not_lost() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    server.plan(|asked| {
        let completes = asked.method == "POST" && asked.query.contains("uploadId=");
        completes.then_some(Fault::Error(403, "AccessDenied"))
    });
    let error = write(&s3, WriteMode::Append, "b").unwrap_err();
    assert!(matches!(error, Error::InDoubt { .. }), "{error:?}");
    server.heal();
    write(&s3, WriteMode::Append, "c").unwrap();
    assert_eq!(visible(&memory), rows(&[("a", 10), ("b", 10), ("c", 10)]));
}

/// An upload whose parts will never make a file is given up: the old result stays, and later runs are not blocked.
#[test]
fn an_upload_whose_parts_are_refused_is_lost() {
    let (memory, server) = serve();
    let s3 = server.connect();
    write(&s3, WriteMode::Error, "a").unwrap();
    server.plan(|asked| {
        let completes = asked.method == "POST" && asked.query.contains("uploadId=");
        completes.then_some(Fault::Error(400, "InvalidPart"))
    });
    let line = write(&s3, WriteMode::Overwrite, "b").unwrap_err().to_line();
    assert!(line.contains("does not take their parts"), "{line}");
    server.heal();
    assert_eq!((visible(&memory), others(&memory)), complete(rows(&[("a", 10)])));
    write(&s3, WriteMode::Append, "c").unwrap();
    assert_eq!(visible(&memory), rows(&[("a", 10), ("c", 10)]));
}

/// Without a manifest, columns and notes are read from the footers of the files, however long these are.
#[test]
fn a_long_footer_is_read_whole() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let append = |wta_k: u32| {
        let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append))?;
        let orb = OrbParams::default().with_wta_k(wta_k).build()?;
        sink.annotate("orb", &orb.describe());
        sink.annotate("comment", &"x".repeat(200_000));
        sink.write(batch("a", 10, 2))?;
        sink.finish()
    };
    append(2).unwrap();
    memory.remove("lab", "out/_manifest.json");
    let line = append(4).unwrap_err().to_line();
    assert!(line.contains("wta_k"), "{line}");
    append(2).unwrap();
    assert_eq!(visible(&memory), rows(&[("a", 20)]));
}

fn write_as(s3: &S3, mode: WriteMode, name: &str, run_id: &str) -> Result<SinkReport> {
    let mut sink = FileSink::create_in_s3(s3, OUT, params(mode).with_run_id(run_id))?;
    sink.write(batch(name, 10, 2))?;
    sink.finish()
}

#[test]
fn a_run_of_the_same_id_is_done_once() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let is_done = |outcome: Result<SinkReport>| match outcome {
        Err(Error::AlreadyCommitted { path, run_id }) => (&*path, &*run_id) == (OUT, "2026-01-01"),
        _ => false,
    };
    write(&s3, WriteMode::Error, "a").unwrap();
    write_as(&s3, WriteMode::Append, "b", "2026-01-01").unwrap();
    for mode in [WriteMode::Append, WriteMode::Error, WriteMode::Overwrite] {
        assert!(is_done(write_as(&s3, mode, "b", "2026-01-01")));
    }
    // Any number of runs may come after it, as long as its rows are there.
    for i in 0..20 {
        write_as(&s3, WriteMode::Append, "c", &format!("c{i}")).unwrap();
    }
    assert!(is_done(write_as(&s3, WriteMode::Append, "b", "2026-01-01")));
    assert_eq!(visible(&memory), rows(&[("a", 10), ("b", 10), ("c", 200)]));
    assert_eq!((others(&memory), memory.uploads().len()), (DONE.map(str::to_owned).to_vec(), 0));
    // Two runs with the same id at a time: the second is refused at its commit.
    let begin = || {
        let params = params(WriteMode::Append).with_run_id("both");
        let mut sink = FileSink::create_in_s3(&s3, OUT, params).unwrap();
        sink.write(batch("d", 10, 2)).unwrap();
        sink
    };
    let (first, second) = (begin(), begin());
    first.finish().unwrap();
    assert!(matches!(second.finish(), Err(Error::AlreadyCommitted { .. })));
    assert_eq!(visible(&memory)["d"], 10);
    assert_eq!((others(&memory), memory.uploads().len()), (DONE.map(str::to_owned).to_vec(), 0));
    // A run that overwrites is done once, too.
    write_as(&s3, WriteMode::Overwrite, "e", "e").unwrap();
    assert!(matches!(
        write_as(&s3, WriteMode::Overwrite, "e", "e"),
        Err(Error::AlreadyCommitted { .. })
    ));
    write_as(&s3, WriteMode::Append, "f", &"x".repeat(128)).unwrap();
    for bad in ["", "two words", "new\nline", "été", &"x".repeat(129)] {
        let line = write_as(&s3, WriteMode::Append, "f", bad).unwrap_err().to_line();
        assert!(line.contains("run_id"), "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let params = FileParams::default().with_run_id("x");
    let line = FileSink::create(folder.path().join("out"), params).unwrap_err().to_line();
    assert!(line.contains("run_id") && line.contains("S3"), "{line}");
}

#[test]
fn a_run_id_whose_rows_are_gone_is_no_success() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let refused = |mode, id: &str| {
        let before = memory.objects("lab", "");
        let line = write_as(&s3, mode, "again", id).unwrap_err().to_line();
        assert!(
            line.contains(&format!("the run {id} was committed and has been replaced")),
            "{line}"
        );
        assert_eq!((memory.objects("lab", ""), memory.uploads().len()), (before, 0));
    };
    write_as(&s3, WriteMode::Error, "a", "first").unwrap();
    write_as(&s3, WriteMode::Overwrite, "b", "second").unwrap();
    for mode in [WriteMode::Append, WriteMode::Error, WriteMode::Overwrite] {
        refused(mode, "first");
    }
    for key in memory.keys("lab", "out/part-") {
        memory.remove("lab", &key);
    }
    refused(WriteMode::Append, "second");
    write_as(&s3, WriteMode::Append, "c", "third").unwrap();
    assert_eq!(visible(&memory), rows(&[("c", 10)]));
    // The same is detected at the commit.
    let params = params(WriteMode::Append).with_run_id("both");
    let mut late = FileSink::create_in_s3(&s3, OUT, params).unwrap();
    late.write(batch("d", 10, 2)).unwrap();
    write_as(&s3, WriteMode::Append, "d", "both").unwrap();
    write(&s3, WriteMode::Overwrite, "e").unwrap();
    let line = late.finish().unwrap_err().to_line();
    assert!(line.contains("the run both was committed and has been replaced"), "{line}");
    assert_eq!(visible(&memory), rows(&[("e", 10)]));
}

/// The first attempt to commit takes effect, but its answer is lost; another run finishes the commit and adds
/// its own rows; then the server fails.
#[test]
fn an_append_that_another_run_finished_is_in_doubt_and_not_a_failure() {
    let (memory, server) = serve();
    let calm = server.connect();
    write(&calm, WriteMode::Error, "old").unwrap();
    let s3 = server.params().with_attempts(3).connect().unwrap();
    let mut sink =
        FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append).with_run_id("mine")).unwrap();
    sink.write(batch("new", 10, 2)).unwrap();
    let stage = AtomicI64::new(0);
    server.plan(move |asked| {
        let is_of_manifest = asked.path == "/lab/out/_manifest.json";
        match (stage.load(Ordering::SeqCst), asked.method.as_str()) {
            (0, "PUT") if is_of_manifest => {
                stage.store(1, Ordering::SeqCst);
                Some(Fault::ResetAfterEffect)
            }
            // Another run commits before the second attempt.
            (1, "PUT") if is_of_manifest => {
                stage.store(2, Ordering::SeqCst);
                let other = calm.clone();
                tokio::task::block_in_place(|| {
                    std::thread::spawn(move || write(&other, WriteMode::Append, "other"))
                        .join()
                        .unwrap()
                        .unwrap();
                });
                stage.store(3, Ordering::SeqCst);
                None
            }
            (3, "GET") if is_of_manifest => {
                stage.store(4, Ordering::SeqCst);
                None
            }
            (4, _) => Some(Fault::Error(500, "InternalError")),
            _ => None,
        }
    });
    let outcome = sink.finish();
    assert!(matches!(outcome, Err(Error::InDoubt { .. })), "{outcome:?}");
    server.heal();
    let again = write_as(&server.connect(), WriteMode::Append, "new", "mine");
    assert!(matches!(again, Err(Error::AlreadyCommitted { .. })), "{again:?}");
    assert_eq!(visible(&memory), rows(&[("new", 10), ("old", 10), ("other", 10)]));
}

/// A commit dies at each of its requests. A repeated job under the run id that the error gives adds the rows
/// only once.
#[test]
fn an_append_in_doubt_can_be_repeated() {
    let mut in_doubt = 0;
    for (run_id, after) in
        [(None, false), (None, true), (Some("mine"), false), (Some("mine"), true)]
    {
        for requests in 0.. {
            let (memory, server) = serve();
            let calm = server.connect();
            write(&calm, WriteMode::Error, "old").unwrap();
            let mortal = server.params().with_attempts(1).connect().unwrap();
            let mut params = params(WriteMode::Append);
            if let Some(id) = run_id {
                params = params.with_run_id(id);
            }
            let mut sink = FileSink::create_in_s3(&mortal, OUT, params).unwrap();
            sink.write(batch("new", 10, 2)).unwrap();
            let left = AtomicI64::new(requests);
            server.plan(move |_| match left.fetch_sub(1, Ordering::SeqCst) {
                1.. => None,
                0 if after => Some(Fault::ResetAfterEffect),
                _ => Some(Fault::Error(403, "Dead")),
            });
            let outcome = sink.finish();
            server.heal();
            let what = format!("{run_id:?} after {requests} requests ({after}): {outcome:?}");
            let id = match outcome {
                Ok(_) => break,
                Err(Error::InDoubt { ref path, ref run_id, .. }) => {
                    assert_eq!(&**path, OUT);
                    in_doubt += 1;
                    run_id.to_string()
                }
                // Nothing of the run stays, so it can be repeated under any id.
                Err(_) => run_id.unwrap_or("new").to_owned(),
            };
            memory.age("lab", "out/_work/", Duration::from_hours(1));
            match write_as(&calm, WriteMode::Append, "new", &id) {
                Ok(_) | Err(Error::AlreadyCommitted { .. }) => {}
                Err(error) => panic!("{what}: {}", error.to_line()),
            }
            assert_eq!(visible(&memory), rows(&[("old", 10), ("new", 10)]), "{what}");
            assert_eq!(others(&memory), DONE.map(str::to_owned).to_vec(), "{what}");
            assert_eq!(memory.uploads(), Vec::<String>::new(), "{what}");
        }
    }
    assert!(in_doubt > 20, "{in_doubt}");
}

/// A run that takes longer than its lease renews it.
#[test]
fn a_lease_is_renewed_while_a_run_lives() {
    let (memory, server) = serve();
    let s3 = server.params().with_lease(Duration::from_secs(4)).connect().unwrap();
    let mut long = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append)).unwrap();
    long.write(batch("long", 10, 2)).unwrap();
    let uploads = memory.uploads().len();
    memory.age("lab", "out/_work/", Duration::from_hours(1));
    // Time for some renewals.
    std::thread::sleep(Duration::from_secs(2));
    write(&server.connect(), WriteMode::Append, "quick").unwrap();
    assert_eq!(memory.uploads().len(), uploads);
    long.finish().unwrap();
    assert_eq!(visible(&memory), rows(&[("long", 10), ("quick", 10)]));
    // The renewals end with the run: a late one would create the lease again.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(memory.keys("lab", "out/_work/"), Vec::<String>::new());
    server.params().with_lease(Duration::from_secs(1)).connect().unwrap();
    let line = server.params().with_lease(Duration::ZERO).connect().unwrap_err().to_line();
    assert!(line.contains("lease"), "{line}");
}

/// Whether a run is dead depends on the duration of its own lease, not on that of the run that checks.
#[test]
fn a_run_without_a_sign_of_life_is_cleared_away_after_its_own_lease() {
    for (lease, left) in [(Duration::from_mins(1), 0), (Duration::from_hours(4), 3)] {
        let (memory, server) = serve();
        let s3 = server.params().with_lease(lease).connect().unwrap();
        let mut silent = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append)).unwrap();
        silent.write(batch("silent", 10, 2)).unwrap();
        memory.age("lab", "out/_work/", Duration::from_hours(1));
        write(&server.connect(), WriteMode::Append, "quick").unwrap();
        assert_eq!(memory.uploads().len(), left, "{lease:?}");
    }
}

#[test]
fn uploads_of_the_dead_are_cleared_away_through_all_pages() {
    let (memory, server) = serve();
    let s3 = server.params().with_lease(Duration::from_mins(1)).connect().unwrap();
    let mut silent = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Append)).unwrap();
    silent.write(batch("silent", 40, 2)).unwrap();
    assert!(memory.uploads().len() >= 10);
    memory.age("lab", "out/_work/", Duration::from_hours(1));
    memory.page_uploads(3);
    write(&server.connect(), WriteMode::Append, "quick").unwrap();
    assert_eq!(memory.uploads().len(), 0);
    drop(silent);
    assert_eq!(visible(&memory), rows(&[("quick", 10)]));
}

/// A part in flight must not arrive after its upload was aborted: S3 would keep it, and storage costs.
#[test]
fn a_part_on_its_way_ends_with_its_upload() {
    let (memory, server) = serve();
    let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
    let params = FileParams::default()
        .with_codec(Codec::Uncompressed)
        .with_row_group_rows(20_000)
        .with_table(TableParams::default().with_score_width(ScoreWidth::F64));
    let mut sink = FileSink::create_in_s3(&s3, OUT, params).unwrap();
    server.plan(|asked| {
        asked.query.contains("partNumber=1").then_some(Fault::Late(Duration::from_mins(10)))
    });
    let until = |what: &str, is: &dyn Fn() -> bool| {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(std::time::Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // Stops writing once a part is being sent: the sink would wait at the next part.
    for _ in 0..12 {
        if server.in_flight() == 0 {
            sink.write(batch("a", 10_000, 20)).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    until("the part is on its way", &|| server.in_flight() == 1);
    drop(sink);
    until("no request is under way", &|| server.in_flight() == 0);
    assert!(memory.keys("lab", "").is_empty() && memory.uploads().is_empty());
}

#[test]
fn an_interrupt_is_quick_when_the_server_is_silent() {
    for stuck in ["GET", "POST", "PUT"] {
        let (_memory, server) = serve();
        let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
        let is_silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let silent = Arc::clone(&is_silent);
        server.plan(move |asked| {
            let is_first = asked.method == stuck && !asked.path.contains("_work");
            if is_first {
                silent.store(true, Ordering::SeqCst);
            }
            silent.load(Ordering::SeqCst).then_some(Fault::Late(Duration::from_mins(10)))
        });
        let other = s3.clone();
        let writing = std::thread::spawn(move || write(&other, WriteMode::Error, "a"));
        while !is_silent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        let start = std::time::Instant::now();
        s3.interrupt();
        let outcome = writing.join().unwrap();
        assert!(matches!(outcome, Err(Error::Interrupted)), "{stuck}: {outcome:?}");
        assert!(start.elapsed() < Duration::from_secs(9), "{stuck}: {:?}", start.elapsed());
    }
}

/// Before its point of no return, a commit is given up although the server is silent, and the old result
/// stays.
#[test]
fn an_interrupt_of_a_commit_before_its_point_of_no_return_gives_it_up() {
    let (memory, server) = serve();
    write(&server.connect(), WriteMode::Error, "a").unwrap();
    let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
    let mut sink = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Overwrite)).unwrap();
    sink.write(batch("b", 10, 2)).unwrap();
    let is_silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    // The server is silent from the last check of the uploads on.
    server.plan(move |asked| {
        if asked.method == "GET" && asked.query.contains("uploadId") {
            silent.store(true, Ordering::SeqCst);
        }
        silent.load(Ordering::SeqCst).then_some(Fault::Late(Duration::from_mins(10)))
    });
    let writing = std::thread::spawn(move || sink.finish());
    while !is_silent.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    s3.interrupt();
    let outcome = writing.join().unwrap();
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    server.heal();
    assert_eq!(visible(&memory), rows(&[("a", 10)]));
    write(&server.connect(), WriteMode::Overwrite, "c").unwrap();
    // Leftovers are not checked: the silent server did not delete the lease, and the lease names this
    // process, which is alive.
    assert_eq!(visible(&memory), rows(&[("c", 10)]));
}

/// A result that can be listed and written, but not read, is left alone.
#[test]
fn a_result_that_may_not_be_read_is_not_touched() {
    for name in ["_manifest.json", "_SUCCESS"] {
        let (memory, server) = serve();
        let s3 = server.connect();
        write(&s3, WriteMode::Error, "a").unwrap();
        let before = memory.objects("lab", "");
        server.plan(move |asked| {
            let is_read = asked.method == "GET" && asked.path.ends_with(name);
            is_read.then_some(Fault::Error(403, "AccessDenied"))
        });
        for mode in [WriteMode::Append, WriteMode::Overwrite] {
            let line = write(&s3, mode, "b").unwrap_err().to_line();
            assert!(line.contains("access denied"), "{name}: {line}");
        }
        server.heal();
        assert_eq!(memory.objects("lab", ""), before, "{name}");
    }
}

/// Without a lease others would take the run for dead.
#[test]
fn a_run_that_may_not_write_its_lease_does_not_begin() {
    let (memory, server) = serve();
    let s3 = server.params().with_conditional_writes(false).connect().unwrap();
    server.plan(|asked| {
        let is_lease = asked.method == "PUT" && asked.path.contains("/_work/");
        is_lease.then_some(Fault::Error(403, "AccessDenied"))
    });
    let line = FileSink::create_in_s3(&s3, OUT, params(WriteMode::Error)).unwrap_err().to_line();
    assert!(line.contains("access denied"), "{line}");
    assert_eq!(memory.keys("lab", ""), Vec::<String>::new());
}

/// Past the point of no return a silent server leaves the result in doubt, and the caller is told so.
#[test]
fn an_interrupt_of_a_commit_that_has_begun_is_quick_too() {
    let (memory, server) = serve();
    let s3 = server.params().with_timeout(Duration::from_mins(10)).connect().unwrap();
    let is_silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    server.plan(move |asked| {
        if asked.method == "POST" && asked.query.contains("uploadId") {
            silent.store(true, Ordering::SeqCst);
        }
        silent.load(Ordering::SeqCst).then_some(Fault::Late(Duration::from_mins(10)))
    });
    let other = s3.clone();
    let writing = std::thread::spawn(move || write_as(&other, WriteMode::Error, "a", "once"));
    while !is_silent.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = std::time::Instant::now();
    s3.interrupt();
    let outcome = writing.join().unwrap();
    assert!(matches!(outcome, Err(Error::InDoubt { .. })), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    server.heal();
    let again = write_as(&server.connect(), WriteMode::Error, "a", "once");
    assert!(matches!(again, Err(Error::AlreadyCommitted { .. })), "{again:?}");
    assert_eq!(visible(&memory), rows(&[("a", 10)]));
}

#[test]
fn appends_of_other_parameters_at_the_same_time_do_not_mix() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let begin = |force, wta_k| {
        let params = params(WriteMode::Append).with_force(force);
        let mut sink = FileSink::create_in_s3(&s3, OUT, params).unwrap();
        let orb = OrbParams::default().with_wta_k(wta_k).build().unwrap();
        sink.annotate("orb", &orb.describe());
        sink.begin().unwrap();
        sink.write(batch("x", 3, 2)).unwrap();
        sink
    };
    let parts = || memory.keys("lab", "out/part-").len();
    // Each run checks the result before another has committed.
    let (first, second, forced) = (begin(false, 2), begin(false, 4), begin(true, 4));
    first.finish().unwrap();
    let error = second.finish().unwrap_err().to_line();
    assert!(error.contains("wta_k: there 2, in this job 4"), "{error}");
    assert_eq!(parts(), 1);
    forced.finish().unwrap();
    assert_eq!(parts(), 2);
}

/// Adds three rows of an extractor with this `wta_k`.
fn append_of(s3: &S3, wta_k: u32, force: bool) -> Result<SinkReport> {
    let mut sink =
        FileSink::create_in_s3(s3, OUT, params(WriteMode::Append).with_force(force)).unwrap();
    let orb = OrbParams::default().with_wta_k(wta_k).build().unwrap();
    sink.annotate("orb", &orb.describe());
    sink.begin()?;
    sink.write(batch("x", 3, 2))?;
    sink.finish()
}

#[test]
fn the_notes_of_the_first_rows_decide_whatever_file_is_first() {
    let (memory, server) = serve();
    let s3 = server.connect();
    let keys = || memory.keys("lab", "out/part-");
    append_of(&s3, 2, false).unwrap();
    let first = keys();
    append_of(&s3, 4, true).unwrap();
    let forced = keys().into_iter().find(|key| !first.contains(key)).unwrap();
    // Renames the forced file, so that it sorts first.
    let file = memory.objects("lab", &forced)[&forced].clone();
    memory.remove("lab", &forced);
    memory.seed("lab", &format!("out/part-00000-{}.parquet", "0".repeat(32)), file);
    let line = append_of(&s3, 4, false).unwrap_err().to_line();
    assert!(
        line.contains("the result was made otherwise (wta_k: there 2, in this job 4)"),
        "{line}"
    );
    append_of(&s3, 2, false).unwrap();
    assert_eq!(keys().len(), 3);
}

#[test]
fn a_result_whose_files_were_deleted_binds_nobody() {
    let (memory, server) = serve();
    let s3 = server.connect();
    append_of(&s3, 2, false).unwrap();
    for key in memory.keys("lab", "out/part-") {
        memory.remove("lab", &key);
    }
    append_of(&s3, 4, false).unwrap();
    append_of(&s3, 4, false).unwrap();
    let error = append_of(&s3, 2, false).unwrap_err().to_line();
    assert!(error.contains("wta_k: there 4, in this job 2"), "{error}");
    assert_eq!(memory.keys("lab", "out/part-").len(), 2);
}
