//! The page and the description of the interface for people: files of this program.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

pub(super) async fn index() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("../page/index.html"))
        .into_response()
}

pub(super) async fn script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../page/app.js"))
        .into_response()
}

pub(super) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../page/style.css")).into_response()
}

pub(super) async fn icon() -> Response {
    ([(CONTENT_TYPE, "image/svg+xml")], include_str!("../page/icon.svg")).into_response()
}

pub(super) async fn docs() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("../page/docs.html"))
        .into_response()
}

pub(super) async fn docs_script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../page/docs.js"))
        .into_response()
}
