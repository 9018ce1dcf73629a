//! What is answered on which path.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{DefaultBodyLimit, Path, State as Shared};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::Value;
use utoipa::OpenApi;

use super::access;
use super::answer::answer;
use super::body::Body;
use super::embed;
use super::error::{ApiError, ErrorAnswer, ErrorBody};
use super::request::{
    ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest,
};
use super::response::{Answer, Detokenized, Embeddings, Model, Models, Tokenized};
use super::state::State;

const PAGE: &str = include_str!("page.html");
/// The page is whole in itself: nothing else is fetched, and nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Schemas whose model must be one of those that are served.
const ASKING: [&str; 4] = ["Choosing", "EmbeddingRequest", "TokenizeRequest", "DetokenizeRequest"];

#[derive(OpenApi)]
#[openapi(
    info(title = "TenPak", description = "A language model, served in OpenAI's form"),
    paths(
        completions,
        chat,
        embeddings,
        models,
        model,
        tokenize,
        detokenize,
        health,
        version,
        metrics
    ),
    components(schemas(ErrorAnswer, ErrorBody))
)]
struct Document;

/// Every route of a server.
pub(crate) fn router(state: &Arc<State>) -> Router {
    let limit = DefaultBodyLimit::max(state.server.limits.body);
    let own = Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .with_state(state.clone());
    let keyed = own
        .merge(state.server.routes.clone())
        .layer(middleware::from_fn_with_state(state.clone(), access::read_body))
        // Outermost: nothing is read of who has no key.
        .layer(middleware::from_fn_with_state(state.clone(), access::check));
    let open = Router::new()
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/", get(page))
        .with_state(state.clone());
    keyed.merge(open).fallback(missing).method_not_allowed_fallback(wrong_method).layer(limit)
}

async fn missing(uri: Uri) -> ApiError {
    let shown: String = uri.path().chars().take(100).collect();
    ApiError::new(StatusCode::NOT_FOUND, format!("nothing is served at {shown}: see /openapi.json"))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let shown: String = uri.path().chars().take(100).collect();
    let told = format!("{method} is not for {shown}: see /openapi.json");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, told)
}

/// Texts that go on from prompts.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, responses(
    (status = 200, description = "The texts; with stream, as server-sent events", body = Answer),
    (status = 400, description = "What is asked makes no sense", body = ErrorAnswer),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
    (status = 404, description = "No such model", body = ErrorAnswer),
    (status = 413, description = "Too long", body = ErrorAnswer),
    (status = 415, description = "Not JSON", body = ErrorAnswer),
    (status = 429, description = "Too many wait already", body = ErrorAnswer),
    (status = 500, description = "The engine failed", body = ErrorAnswer),
    (status = 503, description = "The server is stopping", body = ErrorAnswer),
))]
async fn completions(
    Shared(state): Shared<Arc<State>>,
    body: Body<CompletionRequest>,
) -> Result<Response, ApiError> {
    state.check_open()?;
    let plan = state.read(body, State::plan_completion).await?;
    answer(&state, plan).await
}

/// The next message of a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses(
    (status = 200, description = "The message; with stream, as server-sent events", body = Answer),
    (status = 400, description = "What is asked makes no sense", body = ErrorAnswer),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
    (status = 404, description = "No such model", body = ErrorAnswer),
    (status = 413, description = "Too long", body = ErrorAnswer),
    (status = 415, description = "Not JSON", body = ErrorAnswer),
    (status = 429, description = "Too many wait already", body = ErrorAnswer),
    (status = 500, description = "The engine failed", body = ErrorAnswer),
    (status = 503, description = "The server is stopping", body = ErrorAnswer),
))]
async fn chat(
    Shared(state): Shared<Arc<State>>,
    body: Body<ChatRequest>,
) -> Result<Response, ApiError> {
    state.check_open()?;
    let plan = state.read(body, State::plan_chat).await?;
    answer(&state, plan).await
}

/// Embeddings of texts.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingRequest, responses(
    (status = 200, description = "One for each text", body = Embeddings),
    (status = 400, description = "What is asked makes no sense", body = ErrorAnswer),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
    (status = 404, description = "No such model", body = ErrorAnswer),
    (status = 413, description = "Too long", body = ErrorAnswer),
    (status = 415, description = "Not JSON", body = ErrorAnswer),
    (status = 429, description = "Too many wait already", body = ErrorAnswer),
    (status = 500, description = "The engine failed", body = ErrorAnswer),
    (status = 503, description = "The server is stopping", body = ErrorAnswer),
))]
async fn embeddings(
    Shared(state): Shared<Arc<State>>,
    body: Body<EmbeddingRequest>,
) -> Result<Json<Embeddings>, ApiError> {
    state.check_open()?;
    state.read(body, embed::embed).await.map(Json)
}

/// The names that are served.
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, description = "All of them", body = Models),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
))]
async fn models(Shared(state): Shared<Arc<State>>) -> Json<Models> {
    let names = state.server.names.iter().chain(&state.info.adapters);
    Json(Models { object: "list", data: names.map(|name| named(&state, name)).collect() })
}

/// One name.
#[utoipa::path(get, path = "/v1/models/{id}", params(("id" = String, Path, description = "The name")), responses(
    (status = 200, description = "It is served", body = Model),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
    (status = 404, description = "It is not", body = ErrorAnswer),
))]
async fn model(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let (name, _) = state.model(Some(&id))?;
    Ok(Json(named(&state, &name)))
}

fn named(state: &State, name: &str) -> Model {
    let root = state.server.names.first().cloned().unwrap_or_default();
    let adapter = state.info.adapters.iter().any(|own| own == name);
    Model {
        id: name.to_owned(),
        object: "model",
        created: state.created,
        owned_by: "tenpak",
        parent: adapter.then(|| root.clone()),
        root,
        max_model_len: state.info.max_context,
    }
}

/// The tokens of a text, or of a conversation.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, responses(
    (status = 200, description = "They", body = Tokenized),
    (status = 400, description = "What is asked makes no sense", body = ErrorAnswer),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
    (status = 404, description = "No such model", body = ErrorAnswer),
    (status = 413, description = "Too long", body = ErrorAnswer),
    (status = 415, description = "Not JSON", body = ErrorAnswer),
))]
async fn tokenize(
    Shared(state): Shared<Arc<State>>,
    body: Body<TokenizeRequest>,
) -> Result<Json<Tokenized>, ApiError> {
    state.read(body, embed::tokenize).await.map(Json)
}

/// The text of tokens.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest, responses(
    (status = 200, description = "It", body = Detokenized),
    (status = 400, description = "What is asked makes no sense", body = ErrorAnswer),
    (status = 401, description = "No key, or a wrong one", body = ErrorAnswer),
    (status = 404, description = "No such model", body = ErrorAnswer),
    (status = 413, description = "Too long", body = ErrorAnswer),
    (status = 415, description = "Not JSON", body = ErrorAnswer),
))]
async fn detokenize(
    Shared(state): Shared<Arc<State>>,
    body: Body<DetokenizeRequest>,
) -> Result<Json<Detokenized>, ApiError> {
    state.read(body, embed::detokenize).await.map(Json)
}

/// Whether requests are taken.
#[utoipa::path(get, path = "/health", responses(
    (status = 200, description = "They are"),
    (status = 503, description = "The server is stopping, or weights are on their way", body = ErrorAnswer),
))]
async fn health(Shared(state): Shared<Arc<State>>) -> Result<StatusCode, ApiError> {
    state.check_open()?;
    // Requests are taken before, and answered as weights arrive.
    Ok(if state.server.engine.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    })
}

/// Which server this is.
#[utoipa::path(get, path = "/version", responses((status = 200, description = "Its version")))]
async fn version() -> Json<Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// The server's numbers, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "They", body = String,
    content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")))]
async fn metrics(Shared(state): Shared<Arc<State>>) -> Result<Response, ApiError> {
    let text =
        state.metrics.text().map_err(|_| ApiError::failed("the numbers cannot be written"))?;
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The document, with the names that this server knows.
async fn openapi(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let unwritten = |_| ApiError::failed("the document cannot be written");
    let mut document = serde_json::to_value(Document::openapi()).map_err(unwritten)?;
    let names: Vec<Value> =
        state.server.names.iter().chain(&state.info.adapters).cloned().map(Value::from).collect();
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for (_, schema) in
        schemas.into_iter().flatten().filter(|(name, _)| ASKING.contains(&name.as_str()))
    {
        name_models(schema, &names);
    }
    Ok(Json(document))
}

/// Names the models wherever a schema, or a part of it, has the field.
fn name_models(schema: &mut Value, names: &[Value]) {
    if let Some(model) = schema.pointer_mut("/properties/model").and_then(Value::as_object_mut) {
        model.insert("enum".to_owned(), names.iter().cloned().chain([Value::Null]).collect());
    }
    let parts = schema.get_mut("allOf").and_then(Value::as_array_mut);
    parts.into_iter().flatten().for_each(|part| name_models(part, names));
}

async fn page() -> impl IntoResponse {
    let policy = HeaderValue::from_static(POLICY);
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
}

impl State {
    /// Does what a request asks, where blocking is allowed; what it holds is free after that.
    async fn read<T: Send + 'static, R: Send + 'static>(
        self: &Arc<Self>,
        body: Body<T>,
        work: impl FnOnce(&Self, &T) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, ApiError> {
        self.blocking(move |state| {
            let Body { asked, held } = body;
            let done = work(state, &asked);
            drop((asked, held));
            done
        })
        .await
    }
}

/// Tells everyone that no more requests are taken.
pub(crate) fn drain(state: &State) {
    state.draining.store(true, Ordering::Release);
}
