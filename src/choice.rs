//! Names for the values of parameters that are enums.

/// Implements `ALL`, `as_str`, `Display` and `FromStr` for an enum without fields, from the names of its values. The
/// parameter's name appears in errors.
macro_rules! choice {
    ($type:ident, $parameter:literal, $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// All values.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name, as in files and on the command line.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = crate::error::Error;

            fn from_str(name: &str) -> crate::error::Result<Self> {
                Self::ALL.into_iter().find(|value| value.as_str() == name).ok_or_else(|| {
                    let names = Self::ALL.map(Self::as_str).join(", ");
                    crate::error::Error::param($parameter, name, format!("one of {names}"))
                })
            }
        }
    };
}

pub(crate) use choice;
