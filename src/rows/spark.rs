//! The types of Spark: its vectors, its images, and the schema that its Parquet files carry.

use std::sync::Arc;

use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use serde_json::{Value, json};

/// The footer key of Spark's own schema, which holds the types that Parquet lacks.
pub const ROW_METADATA: &str = "org.apache.spark.sql.parquet.row.metadata";

/// The field of a list's elements, by the name that Parquet and Spark give it.
pub(super) fn element_of(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, false))
}

/// The fields of a `vector`: type 0 is sparse and 1 dense, which has no size and no indices.
pub fn vector_fields() -> Fields {
    fields_of([
        ("type", DataType::Int8, false),
        ("size", DataType::Int32, true),
        ("indices", DataType::List(element_of(DataType::Int32)), true),
        ("values", DataType::List(element_of(DataType::Float64)), true),
    ])
}

/// The fields of an `image`.
pub fn image_fields() -> Fields {
    fields_of([
        ("origin", DataType::Utf8, true),
        ("height", DataType::Int32, true),
        ("width", DataType::Int32, true),
        ("nChannels", DataType::Int32, true),
        ("mode", DataType::Int32, true),
        ("data", DataType::Binary, true),
    ])
}

/// Makes fields from names, types and whether they may be null.
fn fields_of<const N: usize>(fields: [(&str, DataType, bool); N]) -> Fields {
    fields.into_iter().map(|(name, of, nullable)| Field::new(name, of, nullable)).collect()
}

/// Describes a schema as Spark does: the value of [`ROW_METADATA`].
///
/// # Errors
/// Arrow's, for a type that Spark's Parquet files do not have.
pub fn describe(schema: &Schema) -> Result<String, ArrowError> {
    Ok(struct_of(schema.fields())?.to_string())
}

/// Whether a column is a vector, so that Spark must be told.
#[cfg(feature = "parquet")]
pub fn has_vector(schema: &Schema) -> bool {
    let is_vector =
        |field: &Field| matches!(field.data_type(), DataType::Struct(f) if *f == vector_fields());
    schema.fields().iter().any(|field| is_vector(field))
}

fn struct_of(fields: &Fields) -> Result<Value, ArrowError> {
    let field = |field: &Field| {
        Ok(json!({
            "name": field.name(),
            "type": type_of(field.data_type())?,
            "nullable": field.is_nullable(),
            "metadata": {},
        }))
    };
    let fields: Result<Vec<Value>, ArrowError> = fields.iter().map(|f| field(f)).collect();
    Ok(json!({ "type": "struct", "fields": fields? }))
}

fn type_of(data_type: &DataType) -> Result<Value, ArrowError> {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 | DataType::UInt8 => "short",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(_, Some(_)) => "timestamp",
        DataType::Timestamp(_, None) => "timestamp_ntz",
        DataType::Decimal128(precision, scale) => {
            return Ok(format!("decimal({precision},{scale})").into());
        }
        DataType::Dictionary(_, of) => return type_of(of),
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return type_of(&DataType::Null);
            };
            return Ok(json!({
                "type": "map",
                "keyType": type_of(pair[0].data_type())?,
                "valueType": type_of(pair[1].data_type())?,
                "valueContainsNull": pair[1].is_nullable(),
            }));
        }
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            return Ok(json!({
                "type": "array",
                "elementType": type_of(of.data_type())?,
                "containsNull": of.is_nullable(),
            }));
        }
        DataType::Struct(fields) if *fields == vector_fields() => {
            return Ok(json!({
                "type": "udt",
                "class": "org.apache.spark.ml.linalg.VectorUDT",
                "pyClass": "pyspark.ml.linalg.VectorUDT",
                "sqlType": struct_of(fields)?,
            }));
        }
        DataType::Struct(fields) => return struct_of(fields),
        other => {
            let why = format!("the layout of Spark has no type for {other}");
            return Err(ArrowError::SchemaError(why));
        }
    };
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::VectorFormat;
    use crate::rows::{Layout, TableParams};

    #[test]
    fn a_vector_is_described_to_the_letter() {
        let table = TableParams::default().with_layout(Layout::Spark);
        let schema = table.schema(VectorFormat::f32(3), None);
        let described: Value = serde_json::from_str(&describe(&schema).unwrap()).unwrap();
        let fields = described["fields"].as_array().unwrap();
        assert_eq!(
            fields[0],
            json!({"name": "path", "type": "string", "nullable": false, "metadata": {}})
        );
        // As Spark 4.3 writes it.
        let udt = r#"{"type":"udt","class":"org.apache.spark.ml.linalg.VectorUDT","pyClass":"pyspark.ml.linalg.VectorUDT","sqlType":{"type":"struct","fields":[{"name":"type","type":"byte","nullable":false,"metadata":{}},{"name":"size","type":"integer","nullable":true,"metadata":{}},{"name":"indices","type":{"type":"array","elementType":"integer","containsNull":false},"nullable":true,"metadata":{}},{"name":"values","type":{"type":"array","elementType":"double","containsNull":false},"nullable":true,"metadata":{}}]}}"#;
        assert_eq!(fields[6]["type"], serde_json::from_str::<Value>(udt).unwrap());
        let odd = Schema::new(vec![Field::new("odd", DataType::Float16, false)]);
        assert!(describe(&odd).unwrap_err().to_string().contains("Float16"));
    }
}
