//! Columns as a manifest names them.

use arrow_schema::{DataType, Field, Schema};

/// The columns by name and type, such as `label: string, nullable`. Two schemas give the same list if and only if
/// their columns are the same. The names of types are our own, as arrow may rename its types.
pub(super) fn column_types(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    fields.map(|f| format!("{}: {}{}", f.name(), name_of(f.data_type()), null(f))).collect()
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
    use crate::rows::{ScoreWidth, schema};

    #[test]
    fn a_manifest_tells_columns_by_names_that_stay() {
        let orb = VectorFormat::u8(32).with_keypoints();
        let types = column_types(&schema(orb, Some(20), ScoreWidth::F32));
        assert_eq!(
            types,
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
        for (format, k, width) in [
            (orb, Some(21), ScoreWidth::F32),
            (orb, Some(20), ScoreWidth::F64),
            (orb, None, ScoreWidth::F32),
            (VectorFormat::u8(32), Some(20), ScoreWidth::F32),
            (VectorFormat::u8(31).with_keypoints(), Some(20), ScoreWidth::F32),
        ] {
            assert_ne!(column_types(&schema(format, k, width)), types);
        }
        assert_eq!(
            column_types(&schema(VectorFormat::f32(64), None, ScoreWidth::F32))[5..],
            ["vector_index: int32", "vector: list[64] of float32"]
        );
    }
}
