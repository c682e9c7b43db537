//! The Parquet sink: content, files, write modes, all or nothing.
#![cfg(feature = "parquet")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use ndarray::Array2;
use orb_features::prelude::*;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::metadata::RowGroupMetaData;
use testkit::parquet::rows_of;
use testkit::{names, rows};

/// The id of a Spark job, as in the names of its files.
const JOB: &str = "1f2e3d4c-5b6a-4789-8abc-def012345678";

/// Image `n`, with three rows: rows `3 n` to `3 n + 2` of all.
fn image(n: u32) -> ImageFeatures {
    let mut meta = ImageMeta::new(format!("a b/ü+%/{n}.jpg")).with_shape(100 + n, 200 + n, 3);
    meta.label = n.is_multiple_of(2).then(|| format!("label {n}"));
    let row = |i: u32| {
        let keypoint = KeyPoint {
            x: i as f32 + 0.5,
            y: i as f32 * 2.0,
            size: 31.0,
            angle: i as f32 % 360.0,
            response: -(i as f32),
            octave: i as i32 % 8,
        };
        (keypoint, std::array::from_fn(|j| (i as usize * 7 + j) as u8))
    };
    rows::image(Arc::new(meta), (3 * n..3 * n + 3).map(row))
}

/// The rows of a range, each with different values.
fn batch(range: std::ops::Range<u32>, components: Option<usize>) -> RowBatch {
    let mut batch = rows::batch([]);
    for n in range.start / 3..range.end.div_ceil(3) {
        let start = range.start.saturating_sub(3 * n) as usize;
        let end = (range.end - 3 * n).min(3) as usize;
        batch.push_range(&image(n), start..end).unwrap();
    }
    match components {
        None => batch,
        Some(k) => {
            let score = |(r, c)| f64::from(range.start + r as u32) + c as f64 / 3.0;
            batch.with_scores(Array2::from_shape_fn((range.len(), k), score)).unwrap()
        }
    }
}

/// A batch of one failure and no rows.
fn failed(failed: FailedImage) -> RowBatch {
    let mut batch = batch(0..0, None);
    batch.push_failed(failed);
    batch
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "parquet"))
        .collect();
    parts.sort();
    parts
}

fn read(path: &Path) -> RecordBatch {
    rows_of([File::open(path).unwrap()])
}

fn write(path: &Path, params: FileParams, batches: &[RowBatch]) -> Result<SinkReport> {
    let mut sink = FileSink::create(path, params)?;
    batches.iter().try_for_each(|b| sink.write(b.clone()))?;
    sink.finish()
}

#[test]
fn what_is_written_is_read_back() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("new/out");
    let mut sink = FileSink::create(&out, FileParams::default()).unwrap();
    sink.annotate("orb", "{\"n_features\":30}");
    sink.write(batch(0..5, Some(4))).unwrap();
    sink.write(batch(5..11, Some(4))).unwrap();
    assert!(!out.exists(), "nothing is visible before the commit");
    let report = sink.finish().unwrap();
    assert_eq!((report.rows, report.files, report.failures), (11, 1, 0));
    let [part] = &parts(&out)[..] else { panic!("one part") };
    let [images] = &parts(&out.join("_images"))[..] else { panic!("one list") };
    let bytes = [part, images].map(|path| fs::metadata(path).unwrap().len());
    assert_eq!(report.bytes, bytes.iter().sum::<u64>());
    assert!(part.file_name().unwrap().to_str().unwrap().starts_with("part-00000-"));
    assert_eq!(names(&out).first().unwrap(), "_SUCCESS");
    assert_eq!(names(root.path().join("new").as_path()), ["out"], "no litter");

    let table = read(part);
    let want = batch(0..11, Some(4));
    let text = |name: &str| table.column_by_name(name).unwrap().as_string::<i32>().clone();
    let int = |name: &str| table.column_by_name(name).unwrap().as_primitive::<Int32Type>().clone();
    let float =
        |name: &str| table.column_by_name(name).unwrap().as_primitive::<Float32Type>().clone();
    let descriptors = table.column_by_name("descriptor").unwrap().as_fixed_size_binary().clone();
    let scores = table.column_by_name("pca").unwrap().as_fixed_size_list().clone();
    for (i, row) in rows::rows(&want).iter().enumerate() {
        assert_eq!(text("path").value(i), row.meta.uri);
        let label = text("label");
        assert_eq!((!label.is_null(i)).then(|| label.value(i)), row.meta.label.as_deref());
        assert_eq!(int("image_height").value(i), row.meta.height as i32);
        assert_eq!(int("image_width").value(i), row.meta.width as i32);
        assert_eq!(int("image_channels").value(i), 3);
        assert_eq!(int("keypoint_index").value(i), row.index as i32);
        let k = row.keypoint;
        for (name, value) in
            [("x", k.x), ("y", k.y), ("size", k.size), ("angle", k.angle), ("response", k.response)]
        {
            assert_eq!(float(name).value(i), value, "{name}");
        }
        assert_eq!(int("octave").value(i), k.octave);
        assert_eq!(descriptors.value(i), row.descriptor);
        let got = scores.value(i);
        let want: Vec<f32> = want.scores().unwrap().row(i).iter().map(|&s| s as f32).collect();
        assert_eq!(got.as_primitive::<Float32Type>().values(), &want[..]);
    }
    let columns: Vec<_> = table.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(
        columns.join(" "),
        "path label image_height image_width image_channels keypoint_index x y size angle response octave descriptor pca"
    );
}

#[test]
fn the_footer_explains_the_file() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut sink = FileSink::create(&out, FileParams::default().with_rows_per_file(2)).unwrap();
    sink.annotate("orb", "params");
    sink.write(batch(0..5, None)).unwrap();
    sink.finish().unwrap();
    for part in parts(&out) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(part).unwrap()).unwrap();
        let file = reader.metadata().file_metadata();
        assert!(file.created_by().unwrap().starts_with("orb-features "));
        let notes = file.key_value_metadata().unwrap();
        let note = |key: &str| notes.iter().find(|n| n.key == key).and_then(|n| n.value.clone());
        assert_eq!(note("orb_features.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(note("orb_features.orb").as_deref(), Some("params"));
    }
}

#[test]
fn codecs_groups_files_and_widths_are_as_asked() {
    let root = tempfile::tempdir().unwrap();
    for (i, (codec, want)) in [
        (Codec::Uncompressed, Compression::UNCOMPRESSED),
        (Codec::Snappy, Compression::SNAPPY),
        (Codec::Gzip, Compression::GZIP(parquet::basic::GzipLevel::default())),
        (Codec::Lz4, Compression::LZ4_RAW),
        (Codec::Zstd(3), Compression::ZSTD(parquet::basic::ZstdLevel::default())),
    ]
    .into_iter()
    .enumerate()
    {
        let out = root.path().join(i.to_string());
        let params = FileParams::default()
            .with_codec(codec)
            .with_row_group_rows(4)
            .with_rows_per_file(10)
            .with_table(TableParams::default().with_score_width(ScoreWidth::F64));
        let report = write(&out, params, &[batch(0..7, Some(2)), batch(7..33, Some(2))]).unwrap();
        assert_eq!((report.rows, report.files), (33, 4));
        let parts = parts(&out);
        let rows: Vec<_> = parts.iter().map(|p| read(p).num_rows()).collect();
        assert_eq!(rows, [10, 10, 10, 3]);
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(File::open(&parts[0]).unwrap()).unwrap();
        let groups: Vec<_> = reader
            .metadata()
            .row_groups()
            .iter()
            .map(parquet::file::metadata::RowGroupMetaData::num_rows)
            .collect();
        assert_eq!(groups, [4, 4, 2]);
        let compression = reader.metadata().row_group(0).column(0).compression();
        assert_eq!(std::mem::discriminant(&compression), std::mem::discriminant(&want));
        let table = read(&parts[3]);
        let last = table.column_by_name("pca").unwrap().as_fixed_size_list().value(2);
        assert_eq!(last.as_primitive::<Float64Type>().values(), &[32.0, 32.0 + 1.0 / 3.0]);
    }
    for bad in [
        FileParams::default().with_row_group_rows(0),
        FileParams::default().with_rows_per_file(0),
        FileParams::default().with_codec(Codec::Zstd(99)),
    ] {
        let error = FileSink::create(root.path().join("bad"), bad).unwrap_err();
        assert!(matches!(error, Error::InvalidParam { .. }), "{error}");
    }
    assert!(!root.path().join("bad").exists());
}

#[test]
fn no_row_still_makes_a_readable_file() {
    let root = tempfile::tempdir().unwrap();
    let report =
        write(&root.path().join("a"), FileParams::default(), &[batch(0..0, None)]).unwrap();
    assert_eq!((report.rows, report.files), (0, 1));
    let table = read(&parts(&root.path().join("a"))[0]);
    assert_eq!((table.num_rows(), table.num_columns()), (0, 13));
    write(&root.path().join("b"), FileParams::default(), &[batch(0..0, Some(3))]).unwrap();
    let table = read(&parts(&root.path().join("b"))[0]);
    assert_eq!((table.num_rows(), table.num_columns()), (0, 14));
    let DataType::FixedSizeList(_, 3) = table.schema().field(13).data_type() else { panic!() };
}

fn mode(mode: WriteMode) -> FileParams {
    FileParams::default().with_mode(mode)
}

#[test]
fn an_existing_result_is_refused_replaced_or_added_to() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    write(&out, mode(WriteMode::Error), &[batch(0..3, None)]).expect("an empty folder is none");
    let error = write(&out, mode(WriteMode::Error), &[batch(0..4, None)]).unwrap_err();
    assert!(
        matches!(error, Error::OutputExists { .. }) && error.to_string().contains("out"),
        "{error}"
    );
    assert_eq!(parts(&out).len(), 1);

    write(&out, mode(WriteMode::Append), &[batch(0..4, None)]).unwrap();
    let rows = || parts(&out).iter().map(|p| read(p).num_rows()).sum::<usize>();
    assert_eq!((parts(&out).len(), rows()), (2, 7));
    let error = write(&out, mode(WriteMode::Append), &[batch(0..4, Some(2))]).unwrap_err();
    assert!(error.to_line().contains("columns differ"), "{}", error.to_line());
    assert_eq!(rows(), 7);

    write(&out, mode(WriteMode::Overwrite), &[batch(0..5, None)]).unwrap();
    assert_eq!((parts(&out).len(), rows()), (1, 5));
    assert_eq!(names(&out).len(), 3);
    assert_eq!(names(&out.join("_images")).len(), 1);
    assert_eq!(names(root.path()), ["out"], "no litter");

    write(&root.path().join("fresh"), mode(WriteMode::Overwrite), &[batch(0..1, None)]).unwrap();
    write(&root.path().join("added"), mode(WriteMode::Append), &[batch(0..1, None)]).unwrap();
    assert_eq!(names(&root.path().join("added")).len(), 3);
}

#[test]
fn a_folder_of_other_things_is_never_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("photos");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("dear.jpg"), b"photo").unwrap();
    let error = FileSink::create(&out, mode(WriteMode::Overwrite)).unwrap_err().to_line();
    assert!(error.contains("dear.jpg"), "{error}");
    // Folders and files that only look like ours.
    fs::remove_file(out.join("dear.jpg")).unwrap();
    for name in ["_photos", ".git", "part-of-me.parquet"] {
        fs::create_dir(out.join(name)).unwrap();
        assert!(FileSink::create(&out, mode(WriteMode::Overwrite)).is_err(), "{name}");
        fs::remove_dir(out.join(name)).unwrap();
    }
    for name in ["train.parquet", ".env", "_notes"] {
        fs::write(out.join(name), b"x").unwrap();
        assert!(FileSink::create(&out, mode(WriteMode::Overwrite)).is_err(), "{name}");
        fs::remove_file(out.join(name)).unwrap();
    }
    fs::write(out.join("dear.jpg"), b"photo").unwrap();
    // Files that came after the start are not overwritten, either.
    fs::remove_file(out.join("dear.jpg")).unwrap();
    let mut sink = FileSink::create(&out, mode(WriteMode::Overwrite)).unwrap();
    sink.write(batch(0..3, None)).unwrap();
    fs::write(out.join("dear.jpg"), b"photo").unwrap();
    let error = sink.finish().unwrap_err().to_line();
    assert_eq!(fs::read(out.join("dear.jpg")).unwrap(), b"photo");
    assert_eq!(names(&out), ["dear.jpg"]);
    let [kept, _] = &names(root.path())[..] else { panic!("not only what is kept: {error}") };
    assert!(kept.ends_with(".complete") && error.contains(kept), "{error}");
}

#[test]
fn a_dropped_sink_leaves_nothing_and_the_old_result_in_place() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    for kind in [WriteMode::Error, WriteMode::Overwrite, WriteMode::Append] {
        let mut sink = FileSink::create(root.path().join("dropped"), mode(kind)).unwrap();
        sink.write(batch(0..3, None)).unwrap();
        drop(sink);
        let left = root.path().join("dropped");
        assert!(!left.exists() || names(&left).is_empty());
    }
    write(&out, mode(WriteMode::Error), &[batch(0..3, None)]).unwrap();
    let before = names(&out);
    for kind in [WriteMode::Overwrite, WriteMode::Append] {
        let mut sink = FileSink::create(&out, mode(kind)).unwrap();
        sink.write(batch(0..9, None)).unwrap();
        drop(sink);
        assert_eq!(names(&out), before);
    }
}

#[test]
fn what_spark_leaves_in_a_result_is_replaced_with_it() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    let part = format!("part-00000-{JOB}-c000.snappy.parquet");
    for name in [&part, "_SUCCESS", "._SUCCESS.crc", &format!(".{part}.crc")] {
        fs::write(out.join(name), b"x").unwrap();
    }
    write(&out, mode(WriteMode::Overwrite), &[batch(0..5, None)]).unwrap();
    assert_eq!(names(&out).len(), 3);
}

#[test]
fn a_failed_append_undoes_itself() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    write(&out, mode(WriteMode::Error), &[batch(0..3, None)]).unwrap();
    let before = names(&out);
    let mut sink = FileSink::create(&out, mode(WriteMode::Append)).unwrap();
    sink.write(batch(0..3, None)).unwrap();
    sink.write(failed(FailedImage::new(None, "orb", "x", "y"))).unwrap();
    // A file where the folder of failures should go.
    fs::write(out.join("_errors"), b"in the way").unwrap();
    let error = sink.finish().unwrap_err().to_line();
    assert!(error.contains("_errors"), "{error}");
    fs::remove_file(out.join("_errors")).unwrap();
    let (kept, left): (Vec<_>, Vec<_>) =
        names(&out).into_iter().partition(|name| name.starts_with("_complete-"));
    assert_eq!(left, before, "the old result is whole and marked so");
    assert!(kept.len() == 1 && error.contains(&kept[0]), "{error}");
}

#[test]
fn files_of_other_parameters_are_not_added_unless_forced() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let write = |params: FileParams, orb: Option<&OrbParams>, begin: bool| {
        let mut sink = FileSink::create(&out, params)?;
        if let Some(orb) = orb {
            sink.annotate("orb", &orb.clone().build().unwrap().describe());
        }
        if begin {
            sink.begin()?;
        }
        sink.write(batch(0..3, None))?;
        sink.finish()
    };
    let (orb, other) = (OrbParams::default(), OrbParams::default().with_fast_threshold(5));
    write(mode(WriteMode::Error), Some(&orb), true).unwrap();
    write(mode(WriteMode::Append), Some(&orb), true).unwrap();
    for begin in [true, false] {
        let error = write(mode(WriteMode::Append), Some(&other), begin).unwrap_err().to_line();
        assert!(error.contains("fast_threshold: there 20, in this job 5"), "{error}");
        assert!(error.contains("out/part-00000-"), "{error}");
    }
    assert_eq!(parts(&out).len(), 2);
    let mut sink = FileSink::create(&out, mode(WriteMode::Append)).unwrap();
    sink.annotate("orb", &other.clone().build().unwrap().describe());
    sink.begin().expect_err("before the work begins");
    drop(sink);
    // Files without notes can be added, as their parameters are unknown.
    write(mode(WriteMode::Append), None, true).unwrap();
    write(mode(WriteMode::Append).with_force(true), Some(&other), true).unwrap();
    assert_eq!(parts(&out).len(), 4);
    write(mode(WriteMode::Overwrite), Some(&other), true).unwrap();
    assert_eq!(names(root.path()), ["out"], "no litter");
}

#[test]
fn appends_of_other_parameters_at_the_same_time_do_not_mix() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let begin = |force, wta_k| {
        let params = mode(WriteMode::Append).with_force(force);
        let mut sink = FileSink::create(&out, params).unwrap();
        let orb = OrbParams::default().with_wta_k(wta_k).build().unwrap();
        sink.annotate("orb", &orb.describe());
        sink.begin().unwrap();
        sink.write(batch(0..3, None)).unwrap();
        sink
    };
    // Each run checks the result before another has committed.
    let (first, second, forced) = (begin(false, 2), begin(false, 4), begin(true, 4));
    first.finish().unwrap();
    let error = second.finish().unwrap_err().to_line();
    assert!(error.contains("wta_k: there 2, in this job 4"), "{error}");
    assert_eq!(parts(&out).len(), 1);
    forced.finish().unwrap();
    assert_eq!(parts(&out).len(), 2);
}

#[test]
fn what_is_added_to_is_complete() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    write(&out, mode(WriteMode::Error), &[batch(0..3, None)]).unwrap();
    // As if a run had died while it added its files.
    fs::remove_file(out.join("_SUCCESS")).unwrap();
    let error = FileSink::create(&out, mode(WriteMode::Append)).unwrap_err();
    assert!(error.to_line().contains("no _SUCCESS"), "{error}");
    fs::write(out.join("_SUCCESS"), b"").unwrap();
    write(&out, mode(WriteMode::Append), &[batch(3..5, None)]).unwrap();
    assert_eq!((names(&out).len(), names(&out.join("_images")).len()), (4, 2));
}

#[test]
fn only_what_a_job_leaves_is_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let overwrite = || FileSink::create(&out, mode(WriteMode::Overwrite));
    for (foreign, folder) in [
        ("_errors/precious.txt", "_errors"),
        ("_errors/mine/part-0.parquet", "_errors"),
        ("_temporary_photos/1.jpg", "_temporary_photos"),
        ("part-of-my-thesis.parquet.docx", "part-of-my-thesis.parquet.docx"),
        // A dataset of pyarrow.
        ("part-0.parquet", "part-0.parquet"),
        ("part-00000-1f.c000.snappy.parquet", "part-00000-1f.c000.snappy.parquet"),
        ("_errors/deep/part-00000-0123456789abcdef0123456789abcdef.parquet", "_errors/deep"),
        ("_errors/part-00000-1f.parquet", "_errors/part-00000-1f.parquet"),
        ("_temporary/0/precious/thesis.doc", "_temporary/0/precious"),
        ("_temporary/0/x", "_temporary/0/x"),
        (
            "_temporary-0123456789abcdef0123456789abcdef/x",
            "_temporary-0123456789abcdef0123456789abcdef/x",
        ),
    ] {
        write(&out, mode(WriteMode::Overwrite), &[batch(0..3, None)]).unwrap();
        fs::create_dir_all(out.join(foreign).parent().unwrap()).unwrap();
        fs::write(out.join(foreign), b"x").unwrap();
        let error = overwrite().unwrap_err().to_line();
        assert!(error.contains(folder) && error.contains("not overwritten"), "{error}");
        assert!(out.join(foreign).exists());
        fs::remove_dir_all(&out).unwrap();
    }
    // A link or a folder is no file, whatever its name.
    let part = "part-00000-0123456789abcdef0123456789abcdef.parquet";
    for name in [part, "_SUCCESS", "_metadata"] {
        write(&out, mode(WriteMode::Overwrite), &[batch(0..3, None)]).unwrap();
        let _ = fs::remove_file(out.join(name));
        fs::create_dir(out.join(name)).unwrap();
        assert!(overwrite().unwrap_err().to_line().contains(name));
        fs::remove_dir(out.join(name)).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.path().join("elsewhere"), out.join(name)).unwrap();
            assert!(overwrite().unwrap_err().to_line().contains(name));
        }
        fs::remove_dir_all(&out).unwrap();
    }
    let attempt = "_temporary/0/_temporary/attempt_202501010000001234_0000_m_000000_0";
    for ours in [
        format!("_errors/{part}"),
        format!("part-00000-{JOB}-c000.snappy.parquet"),
        format!("{attempt}/part-00000-{JOB}-c000.snappy.parquet"),
        format!("_temporary/0/task_202501010000001234_0000_m_000000/part-00000-{JOB}-c000.parquet"),
        format!("_temporary-{}/{part}", "f".repeat(32)),
    ] {
        let ours = &*ours;
        write(&out, mode(WriteMode::Overwrite), &[batch(0..3, None)]).unwrap();
        fs::create_dir_all(out.join(ours).parent().unwrap()).unwrap();
        fs::write(out.join(ours), b"x").unwrap();
        let mut sink = overwrite().unwrap();
        sink.write(batch(0..0, None)).unwrap();
        sink.finish().unwrap();
        assert!(!out.join(ours).exists());
    }
}

#[test]
#[cfg(unix)]
fn a_folder_that_is_there_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    // A folder that its owner may not write to can be replaced all the same.
    fs::set_permissions(&out, fs::Permissions::from_mode(0o2570)).unwrap();
    for mode in [mode(WriteMode::Error), mode(WriteMode::Overwrite)] {
        write(&out, mode, &[batch(0..3, None)]).unwrap();
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o2570);
        assert_eq!(names(root.path()), ["out"], "the old result is gone");
    }
}

#[test]
fn folders_made_on_the_way_go_with_a_sink_that_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("a/b/out");
    for mode in [mode(WriteMode::Error), mode(WriteMode::Overwrite), mode(WriteMode::Append)] {
        let mut sink = FileSink::create(&out, mode).unwrap();
        sink.write(batch(0..3, None)).unwrap();
        drop(sink);
        assert!(names(root.path()).is_empty());
    }
    fs::create_dir(root.path().join("a")).unwrap();
    drop(FileSink::create(&out, FileParams::default()).unwrap());
    assert_eq!(names(root.path()), ["a"], "what was there stays");
    assert!(names(&root.path().join("a")).is_empty());
}

#[test]
fn a_failed_write_is_not_committed() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut sink = FileSink::create(&out, FileParams::default().with_rows_per_file(2)).unwrap();
    sink.write(batch(0..2, None)).unwrap();
    // The next file cannot be made.
    let hidden = root.path().join(&names(root.path())[0]);
    let aside = root.path().join("aside");
    fs::rename(&hidden, &aside).unwrap();
    assert!(sink.write(batch(2..4, None)).is_err());
    fs::rename(&aside, &hidden).unwrap();
    sink.write(batch(4..6, None)).unwrap();
    assert!(sink.finish().unwrap_err().to_line().contains("earlier"));
    assert!(names(root.path()).is_empty());
}

#[test]
fn notes_of_any_time_before_the_end_are_in_the_footer() {
    let root = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(root.path().join("out"), FileParams::default()).unwrap();
    sink.annotate("early", "1");
    sink.write(batch(0..3, None)).unwrap();
    sink.annotate("late", "2");
    sink.finish().unwrap();
    let file = File::open(&parts(&root.path().join("out"))[0]).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let notes = reader.metadata().file_metadata().key_value_metadata().unwrap();
    for key in ["orb_features.early", "orb_features.late", "orb_features.version"] {
        assert_eq!(notes.iter().filter(|note| note.key == key).count(), 1, "{key}");
    }
}

#[test]
fn a_file_has_no_more_row_groups_than_can_be_numbered() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let params = FileParams::default().with_row_group_rows(1).with_rows_per_file(u64::MAX);
    let mut sink = FileSink::create(&out, params).unwrap();
    sink.set_parallelism(Parallelism::new(1).unwrap());
    sink.write(batch(0..i16::MAX as u32 + 2, None)).unwrap();
    let report = sink.finish().unwrap();
    assert_eq!((report.files, report.rows), (2, i16::MAX as u64 + 2));
}

#[test]
fn files_do_not_depend_on_the_threads_that_encode() {
    // Row groups that fill up before the next 8192 rows are gathered, and row groups of more such portions.
    files_of_row_groups(9000, 17_000, &[&[9000, 8000], &[9000, 8000], &[9000, 3461]]);
    files_of_row_groups(20_000, 33_000, &[&[20_000, 13_000], &[13_461]]);
}

fn files_of_row_groups(row_group_rows: usize, rows_per_file: u64, want_rows: &[&[i64]]) {
    let root = tempfile::tempdir().unwrap();
    let run = |threads| {
        let out = root.path().join(format!("{threads}"));
        let params = FileParams::default()
            .with_row_group_rows(row_group_rows)
            .with_rows_per_file(rows_per_file);
        let mut sink = FileSink::create(&out, params).unwrap();
        sink.set_parallelism(Parallelism::new(threads).unwrap());
        let mut start = 0;
        for rows in [1, 5000, 8191, 0, 20_000, 77].into_iter().cycle().take(9) {
            sink.write(batch(start..start + rows, Some(20))).unwrap();
            start += rows;
        }
        let report = sink.finish().unwrap();
        let files: Vec<Vec<u8>> = parts(&out).iter().map(|p| fs::read(p).unwrap()).collect();
        assert_eq!((report.rows, report.files), (u64::from(start), files.len() as u64));
        files
    };
    let want = run(1);
    assert_eq!(want.len(), want_rows.len());
    for threads in [2, 7] {
        assert!(run(threads) == want, "{threads}");
    }
    // The files hold every row once, in order.
    let mut rows = 0..46_461;
    for (path, want_rows) in parts(&root.path().join("1")).iter().zip(want_rows) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let row_groups = reader.metadata().row_groups().iter().map(RowGroupMetaData::num_rows);
        assert!(row_groups.eq(want_rows.iter().copied()));
        let file = read(path);
        let y = file["y"].as_primitive::<Float32Type>().values();
        let scores = file["pca"].as_fixed_size_list().values();
        let scores = scores.as_primitive::<Float32Type>().values();
        for ((&y, scores), i) in y.iter().zip(scores.chunks(20)).zip(rows.by_ref()) {
            assert_eq!((y, scores[0]), (i as f32 * 2.0, i as f32));
        }
    }
    assert_eq!(rows.next(), None);
}

#[test]
fn a_sink_without_a_batch_does_not_know_its_columns() {
    let root = tempfile::tempdir().unwrap();
    let error = write(&root.path().join("out"), FileParams::default(), &[]).unwrap_err();
    assert!(error.to_line().contains("what columns there are"), "{}", error.to_line());
    assert_eq!(names(root.path()), Vec::<String>::new());
}

#[test]
fn columns_of_the_callers_follow_ours() {
    use arrow_array::{ArrayRef, Int32Array, StringArray};
    use arrow_schema::Field;
    let root = tempfile::tempdir().unwrap();
    let sink = |out: &str| FileSink::create(root.path().join(out), mode(WriteMode::Error)).unwrap();
    let field = || Field::new("name", DataType::Utf8, false);
    let names_of = |batch: &RowBatch| {
        let paths = batch.rows().map(|row| row.meta.uri.rsplit('/').next().unwrap().to_owned());
        Ok(Arc::new(StringArray::from_iter_values(paths)) as ArrayRef)
    };
    let mut named = sink("out").with_column(field(), names_of);
    named.write(batch(0..5, Some(2))).unwrap();
    named.write(batch(5..20_000, Some(2))).unwrap();
    named.finish().unwrap();
    let table = read(&parts(&root.path().join("out"))[0]);
    let column = table.column_by_name("name").unwrap().as_string::<i32>();
    assert!((0..20_000).all(|i| column.value(i) == format!("{}.jpg", i / 3)));
    assert_eq!(table.schema().fields().last().unwrap().name(), "name");
    // Rows without this column cannot be added.
    let plain = write(&root.path().join("out"), mode(WriteMode::Append), &[batch(0..3, Some(2))]);
    assert!(plain.unwrap_err().to_line().contains("its columns differ"));

    let short = |_: &RowBatch| Ok(Arc::new(Int32Array::from(vec![1])) as ArrayRef);
    for (sink, says) in [
        (sink("a").with_column(field(), short), "\"name\" has 1 values of Int32 for 3 rows"),
        (sink("b").with_column(field(), names_of).with_column(field(), names_of), "two columns"),
        (sink("c").with_column(Field::new("path", DataType::Utf8, false), names_of), "\"path\""),
        (
            sink("d").with_column(
                Field::new("s", DataType::Struct([Arc::new(field())].into()), false),
                names_of,
            ),
            "3 values of Utf8",
        ),
    ] {
        let mut sink = sink;
        let written = sink.write(batch(0..3, None));
        let error = written.and_then(|()| sink.finish()).unwrap_err().to_line();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn batches_of_other_columns_are_refused() {
    let root = tempfile::tempdir().unwrap();
    for (first, second) in [(None, Some(2)), (Some(2), None), (Some(2), Some(3))] {
        let out = root.path().join("out");
        let batches = [batch(0..3, first), batch(3..5, second)];
        let error = write(&out, mode(WriteMode::Error), &batches).unwrap_err();
        assert!(error.to_string().contains("other columns"), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn of_two_runs_at_once_one_wins_and_one_is_told() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut first = FileSink::create(&out, mode(WriteMode::Error)).unwrap();
    let mut second = FileSink::create(&out, mode(WriteMode::Error)).unwrap();
    first.write(batch(0..3, None)).unwrap();
    second.write(batch(0..5, None)).unwrap();
    second.finish().unwrap();
    let Err(Error::OutputExists { kept: Some(kept), .. }) = first.finish() else {
        panic!("it is not told")
    };
    assert_eq!(read(&parts(&out)[0]).num_rows(), 5);
    let kept = Path::new(&*kept);
    assert_eq!(read(&parts(kept)[0]).num_rows(), 3);
    assert_eq!(names(root.path()), [kept.file_name().unwrap().to_str().unwrap(), "out"]);
}

#[test]
fn failures_are_recorded_beside_the_rows() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut sink = FileSink::create(&out, FileParams::default()).unwrap();
    sink.write(batch(0..3, None)).unwrap();
    for i in 0..2500 {
        let (uri, why) = ((i > 0).then(|| format!("{i}.jpg")), format!("cannot decode {i}.jpg"));
        sink.write(failed(FailedImage::new(uri, "decode", "corrupt", why))).unwrap();
    }
    let report = sink.finish().unwrap();
    assert_eq!(report.failures, 2500);
    assert_eq!(parts(&out).len(), 1, "a reader of the folder's files sees rows only");
    let files = parts(&out).into_iter().chain(parts(&out.join("_errors")));
    let files = files.chain(parts(&out.join("_images")));
    let bytes: u64 = files.map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(report.bytes, bytes);
    let table = read(&parts(&out.join("_errors"))[0]);
    assert_eq!(table.num_rows(), 2500);
    assert!(table.column(0).is_null(0));
    assert_eq!(table.column(0).as_string::<i32>().value(2499), "2499.jpg");
    assert_eq!(table.column_by_name("cause").unwrap().as_string::<i32>().value(1), "corrupt");
    // An append adds its failures; an overwrite removes the old ones.
    let mut sink = FileSink::create(&out, mode(WriteMode::Append)).unwrap();
    sink.write(batch(0..3, None)).unwrap();
    sink.write(failed(FailedImage::new(None, "orb", "x", "y"))).unwrap();
    sink.finish().unwrap();
    assert_eq!(parts(&out.join("_errors")).len(), 2);
    write(&out, mode(WriteMode::Overwrite), &[batch(0..3, None)]).unwrap();
    assert!(!out.join("_errors").exists());
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"x").unwrap();
    for path in
        [file.clone(), file.join("below"), PathBuf::from("/proc/none/out"), PathBuf::from("/")]
    {
        for kind in [WriteMode::Error, WriteMode::Overwrite, WriteMode::Append] {
            if path == Path::new("/") && kind == WriteMode::Append {
                continue;
            }
            let error = FileSink::create(&path, mode(kind)).unwrap_err().to_line();
            let name = path.file_name().unwrap_or(path.as_os_str()).to_str().unwrap();
            assert!(error.contains(name), "{kind:?} {error}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut sink =
        FileSink::create(root.path().join("out"), FileParams::default().with_row_group_rows(1))
            .unwrap();
    // The hidden folder goes away under the sink: its next file cannot be made.
    let hidden = names(root.path()).into_iter().find(|n| n.starts_with(".out.")).unwrap();
    fs::remove_dir_all(root.path().join(hidden)).unwrap();
    let error = sink.write(batch(0..3, None)).unwrap_err().to_line();
    assert!(error.contains("part-00000-") && error.contains("No such file"), "{error}");
}
