//! What holds for any input: moments, batches and spools, selections.

use std::sync::Arc;

use ndarray::{Array2, Axis};
use orb_features::features::VectorsView;
use orb_features::prelude::*;
use orb_features::rows::ImageOutcome;
use proptest::prelude::*;

/// Images of bytes or floats, with and without vectors, and failures between them.
fn outcomes() -> impl Strategy<Value = (bool, Vec<Option<usize>>)> {
    let image = prop_oneof![1 => Just(None), 8 => (0_usize..9).prop_map(Some), 1 => (20_usize..60).prop_map(Some)];
    (any::<bool>(), prop::collection::vec(image, 1..40))
}

fn outcome(i: usize, rows: Option<usize>, floats: bool) -> ImageOutcome {
    let name = format!("{i}.jpg");
    let Some(rows) = rows else {
        return ImageOutcome::Failed(FailedImage::new(Some(name), "decode", "corrupt", "broken"));
    };
    let value = |j: usize| (i * 31 + j * 7) % 256;
    let vectors = if floats {
        Vectors::from_f32((0..2 * rows).map(|j| value(j) as f32 / 3.0).collect(), 2)
    } else {
        Vectors::from_u8((0..2 * rows).map(|j| value(j) as u8).collect(), 2)
    };
    let meta = ImageMeta::new(name).with_shape(i as u32, 1, 3);
    ImageOutcome::Features(ImageFeatures::new(Arc::new(meta), vectors.unwrap()))
}

/// The rows of batches: path, place within the image, vector.
fn flat(batches: &[RowBatch]) -> Vec<(String, u32, Vec<f32>)> {
    let vector = |batch: &RowBatch, place| match batch.vectors().slice(place..place + 1) {
        VectorsView::U8(rows) => rows.iter().map(|&v| f32::from(v)).collect(),
        VectorsView::F32(rows) => rows.iter().copied().collect(),
        _ => unreachable!("a new kind of vector"),
    };
    let rows = |batch: &RowBatch| -> Vec<_> {
        batch.rows().map(|r| (r.meta.uri.clone(), r.index, vector(batch, r.place))).collect()
    };
    batches.iter().flat_map(rows).collect()
}

proptest! {
    /// Rows, their order and places, images and failures do not depend on where batches end, nor on a spool.
    #[test]
    fn batches_of_any_size_hold_the_same((floats, images) in outcomes(), size in 1_usize..50) {
        let format = if floats { VectorFormat::f32(2) } else { VectorFormat::u8(2) };
        let stream = || images.iter().enumerate().map(|(i, &rows)| Ok(outcome(i, rows, floats)));
        let exploded = |size| -> Vec<RowBatch> {
            let batches = stream().explode().with_format(format).with_batch_rows(size);
            batches.collect::<Result<_>>().unwrap()
        };
        let (batches, whole) = (exploded(size), exploded(usize::MAX));
        prop_assert_eq!(whole.len(), 1);
        prop_assert_eq!(flat(&batches), flat(&whole));
        prop_assert!(batches.iter().all(|batch| batch.len() <= size && batch.format() == format));
        for batch in &batches {
            let mut end = 0;
            for image in batch.images() {
                prop_assert_eq!(image.rows.start, end);
                end = image.rows.end;
            }
            prop_assert_eq!(end, batch.len());
        }
        let begun = batches.iter().flat_map(RowBatch::images).filter(|image| image.first_index == 0);
        prop_assert_eq!(begun.count(), images.iter().flatten().count());
        let failed: usize = batches.iter().map(|batch| batch.failed().len()).sum();
        prop_assert_eq!(failed, images.iter().filter(|rows| rows.is_none()).count());

        let spool = Spool::default().with_memory(100);
        let spooled = batches.iter().cloned().map(Ok).spool(&spool, PcaInput::Bytes).unwrap();
        let moments = spooled.moments.unwrap();
        prop_assert_eq!(moments.count() as usize, whole[0].len());
        prop_assert_eq!(spooled.batches.collect::<Result<Vec<_>>>().unwrap(), batches);
    }

    /// Moments of bytes merge to the same, however the rows are split and in whatever order.
    #[test]
    fn moments_of_any_split_are_the_same(
        rows in prop::collection::vec(prop::array::uniform5(any::<u8>()), 1..80),
        cuts in prop::collection::vec(0_usize..80, 0..5),
        backwards: bool,
    ) {
        let rows = Array2::from_shape_vec((rows.len(), 5), rows.concat()).unwrap();
        let mut whole = Moments::new(5);
        whole.push_rows(rows.view()).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.nrows())).collect();
        cuts.extend([0, rows.nrows()]);
        cuts.sort_unstable();
        let mut parts: Vec<Moments> = Vec::new();
        for cut in cuts.windows(2) {
            let mut part = Moments::new(5);
            part.push_rows(rows.slice(ndarray::s![cut[0]..cut[1], ..])).unwrap();
            parts.push(Moments::from_bytes(&part.to_bytes()).unwrap());
        }
        if backwards {
            parts.reverse();
        }
        let mut sum = Moments::new(5);
        parts.iter().try_for_each(|part| sum.merge(part)).unwrap();
        prop_assert_eq!(&sum, &whole);
        prop_assert_eq!(sum.to_bytes(), whole.to_bytes());
    }

    /// Moments of floats do not depend on how many rows are pushed at a time.
    #[test]
    fn moments_of_floats_in_any_pieces_are_the_same(
        rows in prop::collection::vec(prop::array::uniform3(-1e6_f32..1e6), 1..60),
        piece in 1_usize..70,
    ) {
        let rows = Array2::from_shape_vec((rows.len(), 3), rows.concat()).unwrap();
        let (mut whole, mut pieces) = (Moments::new_f32(3), Moments::new_f32(3));
        whole.push_rows_f32(rows.view()).unwrap();
        rows.axis_chunks_iter(Axis(0), piece).try_for_each(|p| pieces.push_rows_f32(p)).unwrap();
        prop_assert_eq!(whole.to_bytes(), pieces.to_bytes());
    }

    /// `from_bytes` never panics, and `to_bytes` gives back any bytes that it accepts.
    #[test]
    fn any_bytes_are_moments_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        dimensions in 0_u64..4,
        element in prop_oneof![Just(1_u64), Just(4), any::<u64>()],
    ) {
        let mut head = b"orbmom01".to_vec();
        head.extend([element, dimensions].map(u64::to_le_bytes).as_flattened());
        for bytes in [bytes.clone(), [head, bytes].concat()] {
            if let Ok(moments) = Moments::from_bytes(&bytes) {
                prop_assert_eq!(moments.to_bytes(), bytes);
            }
        }
    }

    /// A parallel map gives what a map gives, for any number of threads and any window.
    #[test]
    fn a_parallel_map_is_a_map(n in 0_u32..300, threads in 1_usize..5, window in 0_usize..20) {
        let parallelism = Parallelism::new(threads).unwrap().with_window(window);
        let mapped = (0..n).par_map(parallelism, || 7, |seven, i| i * *seven);
        prop_assert!(mapped.eq((0..n).map(|i| i * 7)));
    }
}
