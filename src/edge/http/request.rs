//! What a request asks for. Pure; whatever a client sends, it means an object of the store, or
//! nothing.

use hyper::header::HeaderValue;

use crate::transport::{ObjectPath, Version};

/// The folders of a store that are served.
const FOLDERS: [&str; 8] =
    ["refs", "names", "manifests", "tables", "layouts", "packs", "by-tensor", "signatures"];
/// The one object at the top.
const DESCRIPTOR: &str = "tenpak.json";

/// The object that a request's path names, if a store may hold it.
pub(crate) fn object_path(path: &str) -> Option<ObjectPath> {
    let path = ObjectPath::new(decode(path.strip_prefix('/')?)?)?;
    let served = match path.as_str().split_once('/') {
        Some((folder, _)) => FOLDERS.contains(&folder),
        None => path.as_str() == DESCRIPTOR,
    };
    served.then_some(path)
}

/// Whether the object of that path may be replaced.
pub(crate) fn is_mutable(path: &ObjectPath) -> bool {
    ["refs/", "layouts/"].iter().any(|folder| path.as_str().starts_with(folder))
}

/// Undoes percent-encoding; `None` if it is broken or hides no UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        };
        out.push(byte);
    }
    String::from_utf8(out).ok()
}

/// A backend's version as an entity tag.
pub(crate) fn entity_tag(version: &Version) -> Option<HeaderValue> {
    let text = version.tag.as_str();
    let quoted = text.trim_start_matches("W/").starts_with('"');
    match quoted {
        true => HeaderValue::try_from(text).ok(),
        false => HeaderValue::try_from(format!("\"{}\"", text.replace('"', ""))).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stores_own_paths_are_served() {
        for (path, object) in [
            ("/tenpak.json", "tenpak.json"),
            ("/packs/00", "packs/00"),
            ("/refs/org/model/@latest", "refs/org/model/@latest"),
            ("/refs/a%20b/%40v%25", "refs/a b/@v%"),
        ] {
            assert_eq!(object_path(path).map(|p| p.to_string()).as_deref(), Some(object));
        }
        for path in [
            "",
            "/",
            "*",
            "/packs",
            "/packs/",
            "/other/x",
            "/tenpak.json/x",
            "/.lock",
            "/packs/../secret",
            "/packs/%2e%2e/secret",
            "/packs/%2E%2E%2Fsecret",
            "/%2e/packs/x",
            "/packs//x",
            "/packs/%",
            "/packs/%4",
            "/packs/%zz",
            "/packs/%ff",
            "/packs/%00",
            "/packs%5cx",
            "/packs/a%0ab",
        ] {
            assert_eq!(object_path(path), None, "{path}");
        }
    }
}
