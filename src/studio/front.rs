//! The studio in front of an edge: which paths are its own, and what holds for every answer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::api;
use super::problem::Problem;
use super::state::Studio;
use crate::edge::{Front, FrontAnswer, FrontError, FrontFigures, RequestBody};

/// What the page may load: what this server gives, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// The first segments of the studio's paths.
const OWN: [&str; 24] = [
    "",
    "compress",
    "optimize",
    "delta",
    "status",
    "artifact",
    "artifacts",
    "jobs",
    "presets",
    "workers",
    "me",
    "uploads",
    "health",
    "healthz",
    "readyz",
    "openapi.json",
    "studio",
    "estimate",
    "docs",
    "hardware",
    "webhooks",
    "tenants",
    "audit",
    "lineage",
];

/// A studio as what stands in front of an edge.
#[derive(Debug)]
pub struct StudioFront {
    router: Router,
    studio: Arc<Studio>,
    /// Without tokens, only who means this machine by its own names is answered: a page of elsewhere, whose name
    /// resolves to this machine, is not.
    local_only: bool,
}

impl StudioFront {
    /// The front of `studio`.
    pub fn new(studio: Arc<Studio>) -> Self {
        let local_only = !studio.tokens.are_needed();
        Self { router: api::router(studio.clone()), studio, local_only }
    }
}

impl Front for StudioFront {
    fn takes(&self, path: &str) -> bool {
        let mut segments = path.trim_start_matches('/').split('/');
        let first = segments.next().unwrap_or_default();
        match first {
            // `delta` may be an organization.
            "delta" => segments.next() == Some("compress"),
            // Files of artifacts of that name are the edge's.
            _ => OWN.contains(&first) && !path.contains("/resolve/"),
        }
    }

    fn is_vital(&self, path: &str) -> bool {
        ["/health", "/healthz", "/readyz"].contains(&path)
    }

    fn figures(&self) -> FrontFigures {
        let studio = self.studio.clone();
        // The database may be away: then there are the edge's alone.
        Box::pin(async move { api::figures(&studio).await.unwrap_or_default() })
    }

    fn answer(&self, request: Request<RequestBody>, _: IpAddr) -> FrontAnswer {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let refused = refuse(request.method(), request.headers(), authority, self.local_only);
        let router = self.router.clone();
        Box::pin(async move {
            let mut answer = match refused {
                Some(problem) => problem.into_response(),
                None => match TowerToHyperService::new(router).call(request).await {
                    Ok(answer) => answer,
                    Err(never) => match never {},
                },
            };
            let headers = answer.headers_mut();
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
            answer.map(|body| body.map_err(FrontError::from).boxed_unsync())
        })
    }
}

/// Refuses what a page of elsewhere has a browser send.
fn refuse(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    local_only: bool,
) -> Option<Problem> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = authority.or_else(|| text(HOST)).unwrap_or_default();
    if local_only && !is_local(host) {
        let detail = "without --tokens only this machine's own names are answered";
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        return None;
    }
    let other_site =
        headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let other_origin = headers.contains_key(ORIGIN)
        && text(ORIGIN)
            .and_then(|origin| origin.split_once("://"))
            .is_none_or(|(_, own)| own != host);
    (other_site || other_origin)
        .then(|| Problem::new(StatusCode::FORBIDDEN, "a page of another site may not ask this"))
}

/// Whether a host, with or without its port, is this machine by its own names.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost"
        || name == "[::1]"
        || name.parse().is_ok_and(|own: std::net::Ipv4Addr| own.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &Method, headers: &[(&str, &str)], local_only: bool) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        refuse(method, &map, None, local_only).map(|problem| problem.status.as_u16())
    }

    #[test]
    fn pages_of_elsewhere_are_refused() {
        let post = &Method::POST;
        for own in ["localhost:1", "127.0.0.1:8080", "[::1]:80", "127.8.8.8"] {
            assert_eq!(status(post, &[("host", own)], true), None, "{own}");
        }
        for other in
            ["evil.example:80", "localhost.evil.example", "", "10.0.0.1:80", "127.0.0.1.nip.io"]
        {
            assert_eq!(status(&Method::GET, &[("host", other)], true), Some(421), "{other}");
            assert_eq!(status(&Method::GET, &[("host", other)], false), None);
        }
        let host = ("host", "a.example");
        assert_eq!(status(post, &[host, ("origin", "https://a.example")], false), None);
        for headers in
            [("origin", "https://b.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
        {
            assert_eq!(status(post, &[host, headers], false), Some(403), "{headers:?}");
        }
    }
}
