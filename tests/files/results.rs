//! Results, read back in every shape and format, and what is no result.
#![cfg(all(feature = "jpeg", feature = "table"))]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Int32Array, ListArray,
    RecordBatch, StringArray,
};
use orb_features::prelude::*;
use orb_features::results::{Photo, ResultReader};
use parquet::arrow::ArrowWriter;
use testkit::photos;

fn orb() -> Orb {
    OrbParams::default().build().unwrap()
}

/// Photos, of which one is flat and one damaged.
fn images() -> Vec<(String, Vec<u8>)> {
    let flat = [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat();
    (0..12)
        .map(|i| {
            let photo = photos::photo(i as usize % 6, i).unwrap();
            match i {
                3 => (format!("flat/{i:02}.pgm"), flat.clone()),
                7 => (format!("bad/{i:02}.jpg"), photo[..photo.len() / 2].to_vec()),
                _ => (format!("kind {}/{i:02}.jpg", i % 3), photo),
            }
        })
        .collect()
}

fn write(folder: &Path, files: FileParams) {
    let sink = FileSink::create(folder, files).unwrap();
    Pipeline::new(MemorySource::new(images()), orb(), sink)
        .with_pca(PcaParams::new(4))
        .with_on_error(OnError::Record)
        .run()
        .unwrap();
}

/// The photos that the job gives, as the extractor makes them.
fn expected() -> Vec<(String, Features)> {
    let extracted = MemorySource::new(images()).open().unwrap().features(&orb());
    let good = extracted.filter_map(Result::ok);
    good.map(|image| {
        let bytes = image.vectors.as_u8().unwrap().as_chunks().0.to_vec();
        let features = Features { keypoints: image.keypoints.clone(), descriptors: bytes };
        (image.meta.uri.clone(), features)
    })
    .collect()
}

fn check(folder: &Path, table: TableParams) {
    let result = ResultReader::open(folder).unwrap();
    assert!(result.is_complete());
    let photos: Vec<Photo> = result.photos().unwrap().map(Result::unwrap).collect();
    let with_empty = table.rows() == RowShape::Image;
    let want: Vec<_> =
        expected().into_iter().filter(|(_, found)| with_empty || !found.is_empty()).collect();
    assert_eq!(photos.len(), want.len());
    for (photo, (path, found)) in photos.iter().zip(&want) {
        assert_eq!((&photo.path, &photo.keypoints), (path, &found.keypoints));
        assert_eq!(photo.descriptors().unwrap(), found.descriptors);
        assert_eq!(photo.label.as_deref(), path.split('/').next());
        assert_eq!((photo.width, photo.height), (100, 100));
        assert_eq!(photo.scores.as_ref().unwrap().rows(), found.len());
    }
    let model = result.model().unwrap().unwrap();
    assert_eq!(model.n_components(), 4);
    assert_eq!(result.orb().unwrap().as_ref(), Some(orb().params()));
    let images: Vec<_> = result.images().unwrap().map(Result::unwrap).collect();
    assert_eq!(images.len(), 12);
    assert_eq!(images[7].cause.as_deref(), Some("corrupt"));
    assert_eq!((images[3].n_vectors, images[3].size), (Some(0), Some((100, 100))));
    assert!(images[7].n_vectors.is_none() && images[7].byte_len.is_some());
    let failed: Vec<_> = result.failed().unwrap().map(Result::unwrap).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].uri.as_deref(), &*failed[0].stage), (Some("bad/07.jpg"), "decode"));
    assert!(failed[0].message.contains("bad/07.jpg"));
    let rows: usize = result.batches().unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    let vectors: usize = want.iter().map(|(_, found)| found.len()).sum();
    assert_eq!(rows, if with_empty { want.len() } else { vectors });
}

#[test]
fn photos_come_back_in_every_shape_and_format() {
    let root = tempfile::tempdir().unwrap();
    let mut n = 0;
    for format in FileFormat::ALL {
        for layout in Layout::ALL {
            for rows in [RowShape::Descriptor, RowShape::Image] {
                let of_texts = rows == RowShape::Image || layout == Layout::Spark;
                if format != FileFormat::Parquet && of_texts {
                    continue;
                }
                let table = TableParams::default().with_layout(layout).with_rows(rows);
                let params = FileParams::default().with_format(format).with_table(table);
                let folder = root.path().join(n.to_string());
                // Files that end within a photo.
                write(&folder, params.with_rows_per_file(7));
                check(&folder, table);
                n += 1;
            }
        }
    }
    assert_eq!(n, 6);
}

#[test]
fn what_is_no_result_is_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("out");
    let why = ResultReader::open(&folder).unwrap_err().to_string();
    assert!(why.contains("out"), "{why}");
    fs::create_dir(&folder).unwrap();
    let why = ResultReader::open(&folder).unwrap_err().to_string();
    assert!(why.contains("it is no result of a job"), "{why}");

    write(&root.path().join("good"), FileParams::default().with_rows_per_file(40));
    let good = ResultReader::open(root.path().join("good")).unwrap();
    fs::remove_file(root.path().join("good/_SUCCESS")).unwrap();
    assert!(good.is_complete());
    assert!(!ResultReader::open(root.path().join("good")).unwrap().is_complete());

    // A file that ends early is named, and those before it are read.
    let mut files: Vec<_> = fs::read_dir(root.path().join("good"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let last = files.iter().rfind(|path| path.extension().is_some()).unwrap();
    let bytes = fs::read(last).unwrap();
    fs::write(last, &bytes[..bytes.len() / 2]).unwrap();
    let result = ResultReader::open(root.path().join("good")).unwrap();
    let photos: Vec<_> = result.photos().unwrap().collect();
    assert!(photos.len() > 2 && photos[..photos.len() - 1].iter().all(Result::is_ok));
    let why = photos.last().unwrap().as_ref().unwrap_err().to_string();
    assert!(why.contains(last.file_name().unwrap().to_str().unwrap()), "{why}");

    // Other tables.
    let table = |name: &str, batch: RecordBatch| {
        let path = root.path().join(name);
        let mut writer =
            ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let result = ResultReader::open(&path).unwrap();
        let first = result.photos().unwrap().next().unwrap();
        first.unwrap_err().to_string()
    };
    let paths = || Arc::new(StringArray::from(vec!["a", "b"]));
    let numbers = Arc::new(Int32Array::from(vec![1, 2]));
    let none = RecordBatch::try_from_iter([("path", paths() as _)]).unwrap();
    let why = table("none.parquet", none);
    assert!(why.contains("no vectors") && why.contains("none.parquet"), "{why}");
    let strange = RecordBatch::try_from_iter([
        ("path", paths() as _),
        ("keypoint_index", numbers as _),
        ("descriptor", paths() as _),
    ]);
    let why = table("strange.parquet", strange.unwrap());
    assert!(why.contains("strange.parquet") && why.contains("descriptor"), "{why}");
    let params =
        FileParams::default().with_table(TableParams::default().with_rows(RowShape::Padded(3)));
    write(&root.path().join("padded"), params);
    let result = ResultReader::open(root.path().join("padded")).unwrap();
    let why = result.photos().unwrap().next().unwrap().unwrap_err().to_string();
    assert!(why.contains("--rows padded"), "{why}");
}

/// A table of two descriptors of a photo, with some columns in place of others.
fn of_descriptors(other: &[(&'static str, ArrayRef)]) -> RecordBatch {
    let one = |value: f32| -> ArrayRef { Arc::new(Float32Array::from(vec![value; 2])) };
    let bytes = FixedSizeBinaryArray::try_from_iter([[1_u8; 32], [2; 32]].into_iter()).unwrap();
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("path", Arc::new(StringArray::from(vec!["a.jpg", "a.jpg"]))),
        ("keypoint_index", Arc::new(Int32Array::from(vec![0, 1]))),
        ("x", one(3.0)),
        ("y", one(4.0)),
        ("size", one(31.0)),
        ("angle", one(0.0)),
        ("response", one(1.0)),
        ("octave", Arc::new(Int32Array::from(vec![0, 0]))),
        ("descriptor", Arc::new(bytes)),
    ];
    for (name, column) in other {
        match columns.iter_mut().find(|(known, _)| known == name) {
            Some((_, place)) => *place = Arc::clone(column),
            None => columns.push((name, Arc::clone(column))),
        }
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Vectors of floats stay what they are, whole numbers or not; ORB's descriptors belong to keypoints.
#[test]
fn vectors_are_not_taken_for_other_ones() {
    let root = tempfile::tempdir().unwrap();
    let list = |values: [f32; 8]| -> ArrayRef {
        let lists = values.as_chunks::<4>().0.iter().map(|row| Some(row.map(Some).to_vec()));
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, 4))
    };
    let path = root.path().join("floats.parquet");
    let whole = of_descriptors(&[("descriptor", list([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))]);
    let other = of_descriptors(&[
        ("path", Arc::new(StringArray::from(vec!["b.jpg", "b.jpg"]))),
        ("descriptor", list([0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])),
    ]);
    let file = fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, whole.schema(), None).unwrap();
    for batch in [whole, other] {
        writer.write(&batch).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
    let photos = ResultReader::open(root.path()).unwrap().photos().unwrap();
    let photos: Vec<Photo> = photos.map(Result::unwrap).collect();
    assert_eq!(photos.len(), 2);
    assert!(photos.iter().all(|photo| photo.vectors.format() == VectorFormat::f32(4)));

    let folder = root.path().join("pixels");
    let sink = FileSink::create(&folder, FileParams::default()).unwrap();
    let pixels = PixelParams::default().with_size(8, 4).build().unwrap();
    let job = Pipeline::new(MemorySource::new(images()), pixels, sink).without_pca();
    job.with_on_error(OnError::Skip).run().unwrap();
    let photo = ResultReader::open(&folder).unwrap().photos().unwrap().next().unwrap().unwrap();
    assert_eq!(photo.vectors.format(), VectorFormat::u8(32));
    assert!(photo.descriptors().unwrap_err().to_line().contains("with keypoints"));
}

#[test]
fn rows_that_no_job_writes_are_errors_and_never_zeros() {
    let root = tempfile::tempdir().unwrap();
    let read = |parts: &[RecordBatch]| -> Result<Vec<Photo>, String> {
        for (i, batch) in parts.iter().enumerate() {
            let path = root.path().join(format!("part-{i}.parquet"));
            let file = File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(batch).unwrap();
            writer.close().unwrap();
        }
        let result = ResultReader::open(root.path()).unwrap();
        let photos: Result<Vec<_>> = result.photos().unwrap().collect();
        photos.map_err(|e| e.to_string())
    };
    let photos = read(&[of_descriptors(&[])]).unwrap();
    assert_eq!((photos.len(), photos[0].keypoints.len(), photos[0].keypoints[1].x), (1, 2, 3.0));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1.5", "abc"]));
    let nulls: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None]));
    let nans: ArrayRef = Arc::new(Float32Array::from(vec![f32::NAN, 1.0]));
    for bad in [texts, nulls, nans] {
        let why = read(&[of_descriptors(&[("x", bad)])]).unwrap_err();
        assert!(why.contains("part-0.parquet") && why.contains("\"x\""), "{why}");
    }
    // Scores of one kind in one file, of another, or none, in the next.
    let scores = |len: i32| -> ArrayRef {
        let item = Arc::new(orb_features::arrow_schema::Field::new(
            "item",
            orb_features::arrow_schema::DataType::Float32,
            false,
        ));
        let values = Arc::new(Float32Array::from(vec![0.5; 2 * len as usize]));
        Arc::new(FixedSizeListArray::try_new(item, len, values, None).unwrap())
    };
    let with = |len| of_descriptors(&[("pca", scores(len))]);
    assert!(read(&[with(3), with(3)]).is_ok());
    for second in [with(4), of_descriptors(&[])] {
        let why = read(&[with(3), second]).unwrap_err();
        assert!(why.contains("part-1.parquet") && why.contains("scores of 3"), "{why}");
    }
    fs::remove_file(root.path().join("part-1.parquet")).unwrap();
    // Lists of other lengths than their neighbours.
    let lists = |lengths: [usize; 2]| -> ArrayRef {
        let items = lengths.map(|n| Some(vec![Some(7.0_f32); n]));
        Arc::new(ListArray::from_iter_primitive::<
            orb_features::arrow_array::types::Float32Type,
            _,
            _,
        >(items))
    };
    let names = ["x", "y", "size", "angle", "response", "octave"];
    let of_images = |keypoints: [usize; 2]| {
        let paths: ArrayRef = Arc::new(StringArray::from(vec!["a.jpg", "b.jpg"]));
        let inner = orb_features::arrow_array::builder::FixedSizeBinaryBuilder::new(32);
        let mut builder = orb_features::arrow_array::builder::ListBuilder::new(inner);
        for n in [2, 3] {
            (0..n).for_each(|i| builder.values().append_value([i; 32]).unwrap());
            builder.append(true);
        }
        let mut columns = vec![("path", paths)];
        columns.extend(names.map(|name| (name, lists(keypoints))));
        columns.push(("descriptor", Arc::new(builder.finish())));
        RecordBatch::try_from_iter(columns).unwrap()
    };
    assert_eq!(read(&[of_images([2, 3])]).unwrap()[1].keypoints.len(), 3);
    let why = read(&[of_images([2, 1])]).unwrap_err();
    assert!(why.contains("b.jpg") && why.contains("different lengths"), "{why}");
}
