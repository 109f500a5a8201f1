//! What a job calls: `module[@version]:export`.

use crate::invalid::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of a plugin, in bytes.
pub const PLUGIN_NAME_MAX: usize = 64;
/// Longest export, in bytes: `package:name/interface@version#function`.
pub const EXPORT_MAX: usize = 256;

/// The name under which a plugin is registered: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PluginName(Arc<str>);

impl PluginName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PluginName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let legal =
            |(i, b): (usize, u8)| b.is_ascii_lowercase() || b.is_ascii_digit() || (i > 0 && (b == b'_' || b == b'-'));
        if text.is_empty() || text.len() > PLUGIN_NAME_MAX || !text.bytes().enumerate().all(legal) {
            return Err(Invalid::new(
                "plugin name",
                text,
                "it must be 1 to 64 of a-z, 0-9, `_` and `-`, the first a letter or digit",
            ));
        }
        Ok(PluginName(text.into()))
    }
}

/// Which registered version of a plugin a job is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Version {
    /// The one whose component has this SHA-256, given by at least eight hexadecimal digits.
    Digest(String),
    /// The one registered under this label.
    Label(String),
}

/// A function of a plugin: `report:nightly`, `report@1.4.0:nightly`,
/// `report@sha256:ab12cd34:nightly`, `report:demo:pkg/printer#nightly`.
///
/// Everything after the colon that ends the module is the export, so an export of an interface
/// keeps its own colons.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FuncRef {
    pub module: PluginName,
    /// `None` follows the current version.
    pub version: Option<Version>,
    pub export: Arc<str>,
}

impl FromStr for FuncRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const SHAPE: &str = "write `module:export`, such as `hello:greet`";
        let bad = |reason: &str| Invalid::new("function", text, reason).hint(SHAPE);
        let end = text.find([':', '@']).ok_or_else(|| bad("it has no `:`"))?;
        let module = text[..end].parse::<PluginName>().map_err(|e| bad(&e.reason))?;
        let (version, export) = match text[end..].strip_prefix('@') {
            None => (None, &text[end + 1..]),
            Some(rest) => {
                let (version, export) = parse_version(rest).map_err(bad)?;
                (Some(version), export)
            }
        };
        if export.is_empty() {
            return Err(bad("the export is empty"));
        }
        if export.len() > EXPORT_MAX {
            return Err(bad("the export is longer than 256 bytes"));
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_:/@.#+".contains(&b);
        if let Some(at) = export.bytes().position(|b| !legal(b)) {
            return Err(bad(&format!("character {} of the export is not allowed", at + 1)));
        }
        Ok(FuncRef { module, version, export: export.into() })
    }
}

fn parse_version(rest: &str) -> Result<(Version, &str), &'static str> {
    const NO_EXPORT: &str = "there is no `:export` after the version";
    if let Some(rest) = rest.strip_prefix("sha256:") {
        let (hex, export) = rest.split_once(':').ok_or(NO_EXPORT)?;
        let is_hex = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !(8..=64).contains(&hex.len()) || !is_hex {
            return Err("a digest is 8 to 64 lower-case hexadecimal digits");
        }
        return Ok((Version::Digest(hex.to_owned()), export));
    }
    let (label, export) = rest.split_once(':').ok_or(NO_EXPORT)?;
    check_label(label)?;
    Ok((Version::Label(label.to_owned()), export))
}

/// The rule for a version label: `1.4.0`, `2026-11-22_rc1`.
pub fn check_label(label: &str) -> Result<(), &'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    if label.is_empty() || label.len() > 64 || !label.bytes().all(legal) {
        return Err("a version label is 1 to 64 of letters, digits, `.`, `_`, `-` and `+`");
    }
    Ok(())
}

impl fmt::Display for FuncRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.module.0)?;
        match &self.version {
            None => {}
            Some(Version::Digest(hex)) => write!(f, "@sha256:{hex}")?,
            Some(Version::Label(label)) => write!(f, "@{label}")?,
        }
        write!(f, ":{}", self.export)
    }
}

/// A text type that (de)serialises as what it parses from and prints.
macro_rules! text_form {
    ($type:ident) => {
        $crate::func::text_form!($type, {});
    };
    // With a pattern that all of it match, and most of what is refused does not.
    ($type:ident, $pattern:literal) => {
        $crate::func::text_form!($type, { "pattern": $pattern });
    };
    ($type:ident, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut schema = schemars::json_schema!($schema);
                schema.insert("type".to_owned(), "string".into());
                schema
            }
        }
        impl TryFrom<String> for $type {
            type Error = $crate::invalid::Invalid;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use text_form;

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(PluginName, "^[a-z0-9][a-z0-9_-]{0,63}$");
text_form!(FuncRef);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, module: &str, version: Option<Version>, export: &str) {
        let func: FuncRef = text.parse().unwrap();
        assert_eq!((func.module.as_str(), &func.version, &*func.export), (module, &version, export));
        assert_eq!(func.to_string(), text);
    }

    #[test]
    fn a_func_has_a_module_perhaps_a_version_and_an_export() {
        check("hello:greet", "hello", None, "greet");
        check("hello:demo:pkg/greeter@1.0.0#greet", "hello", None, "demo:pkg/greeter@1.0.0#greet");
        check("report@1.4.0:nightly", "report", Some(Version::Label("1.4.0".into())), "nightly");
        check("report@sha256:ab12cd34:x", "report", Some(Version::Digest("ab12cd34".into())), "x");
    }

    #[test]
    fn what_is_no_func_is_refused_with_the_reason() {
        for (text, reason) in [
            ("hello", "no `:`"),
            ("hello:", "export is empty"),
            ("../x:run", "1 to 64"),
            ("a@1.0", "no `:export`"),
            ("a@sha256:zz:run", "hexadecimal"),
            ("a:r\0n", "not allowed"),
            (":run", "1 to 64"),
        ] {
            let error = text.parse::<FuncRef>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_itself(text in "\\PC{0,80}") {
            if let Ok(func) = text.parse::<FuncRef>() {
                prop_assert_eq!(func.to_string(), text);
            }
        }
    }
}
