//! Columns by name and type, as text: in a manifest, and in the notes of CSV files.

use arrow_schema::{DataType, Field, Schema};

use super::layout::FileFormat;

/// The key of the note of CSV files that tells their columns.
pub(super) const NOTE: &str = "columns";

/// The columns by name and type, such as `label: string, nullable`; before them the format, unless it is Parquet. Two
/// results have the same list if and only if their format and their columns are the same. The names of types are our
/// own, as arrow may rename its types.
pub(super) fn column_types(schema: &Schema, format: FileFormat) -> Vec<String> {
    let format = Some(format).filter(|format| *format != FileFormat::Parquet);
    let format = format.map(|format| format!("in {format}"));
    let fields = schema.fields().iter();
    let columns = fields.map(|f| format!("{}: {}{}", f.name(), name_of(f.data_type()), null(f)));
    format.into_iter().chain(columns).collect()
}

fn name_of(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::FixedSizeBinary(len) => format!("binary[{len}]"),
        DataType::FixedSizeList(of, len) => {
            format!("list[{len}] of {}{}", name_of(of.data_type()), null(of))
        }
        DataType::List(of) => format!("list of {}{}", name_of(of.data_type()), null(of)),
        DataType::Struct(fields) => {
            let fields = fields.iter();
            let fields =
                fields.map(|f| format!("{}: {}{}", f.name(), name_of(f.data_type()), null(f)));
            format!("struct of ({})", fields.collect::<Vec<_>>().join("; "))
        }
        DataType::Int8 => "int8".to_owned(),
        DataType::Binary => "binary".to_owned(),
        // Only in a column that the caller adds: arrow's name of the type.
        other => other.to_string(),
    }
}

fn null(field: &Field) -> &'static str {
    if field.is_nullable() { ", nullable" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::VectorFormat;
    use crate::rows::{Layout, RowShape, ScoreWidth, TableParams};

    fn types(format: VectorFormat, k: Option<usize>, table: TableParams) -> Vec<String> {
        column_types(&table.schema(format, k), FileFormat::Parquet)
    }

    #[test]
    fn a_manifest_tells_columns_by_names_that_stay() {
        let orb = VectorFormat::u8(32).with_keypoints();
        let table = TableParams::default();
        let default = types(orb, Some(20), table);
        assert_eq!(
            default,
            [
                "path: string",
                "label: string, nullable",
                "image_height: int32",
                "image_width: int32",
                "image_channels: int32",
                "keypoint_index: int32",
                "x: float32",
                "y: float32",
                "size: float32",
                "angle: float32",
                "response: float32",
                "octave: int32",
                "descriptor: binary[32]",
                "pca: list[20] of float32",
            ]
        );
        for (format, k, table) in [
            (orb, Some(21), table),
            (orb, Some(20), table.with_score_width(ScoreWidth::F64)),
            (orb, None, table),
            (VectorFormat::u8(32), Some(20), table),
            (VectorFormat::u8(31).with_keypoints(), Some(20), table),
            (orb, Some(20), table.with_rows(RowShape::Image)),
            (orb, Some(20), table.with_layout(Layout::Spark)),
        ] {
            assert_ne!(types(format, k, table), default);
        }
        assert_eq!(
            types(VectorFormat::f32(64), None, table)[5..],
            ["vector_index: int32", "vector: list[64] of float32"]
        );
        let images = types(orb, Some(20), table.with_rows(RowShape::Image));
        assert_eq!(images[5..7], ["n_keypoints: int32", "x: list of float32"]);
        assert_eq!(
            images[12..],
            ["descriptor: list of binary", "pca: list of list[20] of float32"]
        );
        let padded = types(orb, Some(20), table.with_rows(RowShape::Padded(3)));
        assert_eq!(padded[6..], ["descriptor: list[96] of float32", "pca: list[60] of float32"]);
        let csv = column_types(&table.schema(orb, None), FileFormat::Csv);
        assert_eq!((&*csv[0], csv.len()), ("in csv", 14));
    }
}
