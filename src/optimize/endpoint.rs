//! Servers that candidates are read or measured at, as the command line names them. Pure.

use std::str::FromStr;

/// `[METHOD[@HARDWARE]=]URL[#MODEL]`: without a method, a server of whatever it lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The candidate that it serves, and nothing else.
    pub method: Option<String>,
    /// On what it runs.
    pub hardware: Option<String>,
    /// Its address.
    pub url: String,
    /// What it calls the model.
    pub model: Option<String>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "an address that begins with http:// or https://, METHOD= before it where it serves one candidate, \
             #MODEL after it where it calls that otherwise"
                .to_owned()
        };
        let scheme = ["http://", "https://"].iter().filter_map(|own| text.find(own)).min();
        let (whose, url) = text.split_at_checked(scheme.ok_or_else(wrong)?).ok_or_else(wrong)?;
        let (method, hardware) = match whose.strip_suffix('=') {
            None if whose.is_empty() => (None, None),
            None => return Err(wrong()),
            Some(whose) => match whose.split_once('@') {
                None => (Some(whose), None),
                Some((method, hardware)) => (Some(method), Some(hardware)),
            },
        };
        let (url, model) = match url.split_once('#') {
            None => (url, None),
            Some((url, model)) => (url, Some(model)),
        };
        if [method, hardware, model].contains(&Some("")) {
            return Err(wrong());
        }
        let owned = |own: Option<&str>| own.map(str::to_owned);
        Ok(Self {
            method: owned(method),
            hardware: owned(hardware),
            url: url.to_owned(),
            model: owned(model),
        })
    }
}

impl Endpoint {
    /// Whether a candidate may be served there, on hardware of which there are `choices`.
    pub fn may_serve(&self, method: &str, hardware: Option<&str>, choices: usize) -> bool {
        let here = match (&self.hardware, hardware) {
            (Some(own), Some(hardware)) => own == hardware,
            // Which hardware it runs on is plain where there is one.
            (None, Some(_)) => choices == 1,
            (_, None) => true,
        };
        here && self.method.as_deref().is_none_or(|own| own == method)
    }

    /// Which of the models that a server lists is asked for a candidate that has these names.
    ///
    /// # Errors
    /// If a server that should serve it does not: in words.
    pub fn choose(&self, listed: &[String], names: &[String]) -> Result<Option<String>, String> {
        let wanted: Vec<&str> = match &self.model {
            Some(model) => vec![model],
            None => names.iter().map(String::as_str).collect(),
        };
        let found = wanted.iter().find(|own| listed.iter().any(|other| other == *own));
        match found {
            Some(found) => Ok(Some((*found).to_owned())),
            None if self.method.is_none() && self.model.is_none() => Ok(None),
            None => Err(format!(
                "{} serves {}, not {}: serve that, or say what it is called there with {}#NAME",
                self.url,
                listed.join(", "),
                wanted.join(" or "),
                self.url
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_written() {
        let of = |text: &str| text.parse::<Endpoint>();
        let bare = of("http://a:1/v1").unwrap();
        assert_eq!(
            (bare.method.clone(), bare.url.as_str(), bare.model.clone()),
            (None, "http://a:1/v1", None)
        );
        let full = of("bnb_nf4@h100x2=https://a/#/models/x=y").unwrap();
        let parts = [full.method, full.hardware, full.model].map(Option::unwrap);
        assert_eq!(parts, ["bnb_nf4", "h100x2", "/models/x=y"]);
        for wrong in [
            "",
            "a:1",
            "x=",
            "=http://a",
            "x@=http://a",
            "@h100=http://a",
            "xhttp://a",
            "http://a#",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(bare.may_serve("x", None, 1) && bare.may_serve("x", Some("l4"), 1));
        assert!(!bare.may_serve("x", Some("l4"), 2), "on which of them?");
        let own = of("x@l4=http://a").unwrap();
        assert!(own.may_serve("x", Some("l4"), 2) && own.may_serve("x", None, 2));
        assert!(!own.may_serve("x", Some("t4"), 2) && !own.may_serve("y", Some("l4"), 2));
    }

    #[test]
    fn a_server_of_another_model_is_refused() {
        let names = ["x".to_owned(), "n:optimize-x".to_owned()];
        let listed = ["other".to_owned(), "n:optimize-x".to_owned()];
        let of = |text: &str, listed: &[String]| {
            text.parse::<Endpoint>().unwrap().choose(listed, &names)
        };
        assert_eq!(of("http://a", &listed), Ok(Some("n:optimize-x".to_owned())));
        assert_eq!(of("http://a", &listed[..1]), Ok(None));
        let said = of("x=http://a", &listed[..1]).unwrap_err();
        assert!(said.contains("http://a serves other, not x or n:optimize-x"), "{said}");
        assert_eq!(of("x=http://a#other", &listed), Ok(Some("other".to_owned())));
        assert!(of("http://a#third", &listed).unwrap_err().contains("not third"));
    }
}
