//! Proxies: which requests go through one, as `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say, and the
//! way through it.
//!
//! A request for http goes to the proxy with its whole address. For https the proxy is asked for a tunnel to the
//! server, and sees nothing of what passes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

/// Which requests go through which proxy.
#[derive(Clone)]
pub struct Proxies(Arc<Rules>);

struct Rules {
    matcher: Matcher,
    /// Hosts, with the one port of each that no proxy is asked for.
    ports: Vec<(String, u16)>,
    /// No proxy is asked for any host.
    none: bool,
    /// Variables that name a proxy and cannot be understood, for `http` and for `https`.
    unclear: [Option<&'static str>; 2],
    /// All that is not in `NO_PROXY`.
    proxied: Matcher,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Passwords stand in it.
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    /// As the environment says: `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`, apart from the hosts, domains and
    /// networks in `NO_PROXY`; in upper or lower case.
    pub fn from_env() -> Self {
        Self::of_variables(|name| std::env::var(name).ok())
    }

    fn of_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&'static str; 2]| {
            let found = names.into_iter().find_map(|name| Some((name, get(name)?)));
            found.unwrap_or((names[0], String::new()))
        };
        // A server of programs by CGI makes HTTP_PROXY of what clients send.
        let is_cgi = get("REQUEST_METHOD").is_some();
        let (_, no) = first(["NO_PROXY", "no_proxy"]);
        let mut builder = Matcher::builder().no(no.clone());
        let mut unclear = [None; 2];
        let none = no.split(',').any(|item| item.trim() == "*");
        if !is_cgi && !none {
            let all = first(["ALL_PROXY", "all_proxy"]);
            let own = [first(["HTTP_PROXY", "http_proxy"]), first(["HTTPS_PROXY", "https_proxy"])];
            for (place, own) in unclear.iter_mut().zip(&own) {
                let (name, value) = if own.1.is_empty() { &all } else { own };
                *place = (!value.is_empty() && !is_address(value)).then_some(*name);
            }
            let [(_, http), (_, https)] = own;
            builder = builder.all(all.1).http(http).https(https);
        }
        let ports = no.split(',').filter_map(host_and_port).collect();
        let proxied = Matcher::builder().all("http://any".to_owned()).no(no).build();
        Self(Arc::new(Rules { matcher: builder.build(), ports, none, unclear, proxied }))
    }

    /// Whether there is anything that [`Self::are_past`] is true for.
    #[cfg(feature = "cloud")]
    pub(in crate::transport) fn leave_ports_out(&self) -> bool {
        self.0.none || !self.0.ports.is_empty()
    }

    /// Whether `NO_PROXY` excepts this port of a host, or everything: rules that other clients do not know.
    pub(in crate::transport) fn are_past(&self, host: &str, port: Option<u16>) -> bool {
        let is_own = |(own, of): &(String, u16)| Some(*of) == port && is_below(host, own);
        self.0.none || self.0.ports.iter().any(is_own)
    }

    /// The proxy for a request.
    pub(super) fn of(&self, url: &Url) -> Option<Proxy> {
        let rules = &*self.0;
        let uri: Uri = url[..url::Position::AfterPath].parse().ok()?;
        if self.are_past(url.host_str().unwrap_or_default(), url.port_or_known_default()) {
            return None;
        }
        let [http, https] = rules.unclear;
        let unclear = if url.scheme() == "https" { https } else { http };
        if let Some(name) = unclear
            && rules.proxied.intercept(&uri).is_some()
        {
            let (scheme, authority) = (String::new(), format!("of {name}").into());
            return Some(Proxy { scheme, authority, authorization: None });
        }
        let intercept = rules.matcher.intercept(&uri)?;
        let proxy = intercept.uri();
        let host = proxy.host().unwrap_or_default();
        let port = proxy.port_u16().unwrap_or(match proxy.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        Some(Proxy {
            scheme: proxy.scheme_str().unwrap_or("http").to_owned(),
            authority: format!("{host}:{port}").into(),
            authorization: intercept.basic_auth().cloned(),
        })
    }
}

/// Whether a variable's text is the address of a proxy.
fn is_address(text: &str) -> bool {
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    whole.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

/// `host:port` of a list; an IPv6 address stands in brackets.
fn host_and_port(item: &str) -> Option<(String, u16)> {
    let (host, port) = item.trim().rsplit_once(':')?;
    let host = host.trim_start_matches('.').to_ascii_lowercase();
    let is_host = !host.is_empty() && (!host.contains(':') || host.ends_with(']'));
    Some((host, port.parse().ok()?)).filter(|_| is_host)
}

/// Whether a host is that one, or lies below that domain.
fn is_below(host: &str, domain: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Why a proxy is of no help.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) proxy: Arc<str>,
    pub(super) why: String,
    pub(super) may_pass: bool,
}

/// A proxy.
pub(super) struct Proxy {
    scheme: String,
    authority: Arc<str>,
    /// What it is shown.
    pub(super) authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Its host and port.
    pub(super) fn authority(&self) -> Result<&Arc<str>, Refusal> {
        match self.scheme.as_str() {
            "http" => Ok(&self.authority),
            "" => {
                let why = "its address cannot be understood, write http://HOST:PORT".to_owned();
                Err(self.refusal(why, false))
            }
            other => {
                Err(self
                    .refusal(format!("{other}:// is not supported, use an http:// proxy"), false))
            }
        }
    }

    pub(super) fn refusal(&self, why: String, may_pass: bool) -> Refusal {
        Refusal { proxy: self.authority.clone(), why, may_pass }
    }

    /// Asks for a tunnel to `server`, a host and port, on a connection to the proxy.
    pub(super) async fn tunnel(&self, tcp: TcpStream, server: &str) -> Result<TcpStream, Refusal> {
        let broken = |error: hyper::Error| self.refusal(error.to_string(), true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() =
            server.parse().map_err(|error| self.refusal(format!("{server}: {error}"), false))?;
        if let Ok(host) = HeaderValue::from_str(server) {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            let why = match status {
                StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => {
                    "it wants a user name and a password, or others (http://USER:PASSWORD@HOST)"
                        .to_owned()
                }
                status => format!("it answered {status} to CONNECT {server}"),
            };
            return Err(self.refusal(why, status.is_server_error()));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            _ => Err(self.refusal("it sent something into the tunnel".to_owned(), true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the proxy for an address is; a refusal begins with `!`.
    fn of(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxy = Proxies::of_variables(get).of(&Url::parse(url).unwrap())?;
        Some(match proxy.authority() {
            Ok(authority) => authority.to_string(),
            Err(refusal) => format!("!{}", refusal.proxy),
        })
    }

    #[test]
    fn what_no_proxy_names_is_asked_directly() {
        let (server, name) = ("http://10.1.2.3:9000/x", "https://s3.example.com/x");
        for (no, to_server, to_name) in [
            ("", true, true),
            ("*", false, false),
            ("a, * ", false, false),
            ("10.1.2.3", false, true),
            ("10.0.0.0/8", false, true),
            ("10.1.2.3:9000", false, true),
            ("10.1.2.3:9001", true, true),
            ("0.1.2.3:9000", true, true),
            ("EXAMPLE.com:443", true, false),
            (".example.com:443", true, false),
            ("example.com:80", true, true),
            ("ample.com:443", true, true),
            ("x:y, :1, [::1]:9000", true, true),
        ] {
            let variables = [("ALL_PROXY", "http://proxy:3128"), ("NO_PROXY", no)];
            let got = [server, name].map(|url| of(&variables, url).is_some());
            assert_eq!(got, [to_server, to_name], "{no}");
        }
        let variables = [("http_proxy", "proxy"), ("no_proxy", "[::1]:9000")];
        assert_eq!(of(&variables, "http://[::1]:9000/"), None);
        assert_eq!(of(&variables, "http://[::1]:9001/").as_deref(), Some("proxy:80"));
    }

    #[test]
    fn a_proxy_that_cannot_be_understood_is_not_left_out() {
        let (http, https) = ("http://host/x", "https://host/x");
        let bad = ("HTTP_PROXY", "::bad::");
        assert_eq!(of(&[bad], http).as_deref(), Some("!of HTTP_PROXY"));
        assert_eq!(of(&[bad], https), None);
        assert_eq!(of(&[bad, ("NO_PROXY", "host")], http), None);
        assert_eq!(of(&[bad, ("NO_PROXY", "*")], http), None);
        assert_eq!(of(&[("all_proxy", "http://")], https).as_deref(), Some("!of all_proxy"));
        assert_eq!(of(&[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "GET")], http), None);
        assert_eq!(of(&[("HTTP_PROXY", ""), ("ALL_PROXY", "p:1")], http).as_deref(), Some("p:1"));
    }
}
