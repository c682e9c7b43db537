//! Results, read back in every shape and format, and what is no result.
#![cfg(all(feature = "jpeg", feature = "parquet"))]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Int32Array, RecordBatch, StringArray};
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
    assert!(matches!(ResultReader::open(&folder).unwrap_err(), Error::NoInput { .. }));

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
