//! What each path of the API does. [`endpoints`] is the list of them: the router and the document (`/v1/openapi.json`)
//! both come from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path as UrlPath, Query, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::access::{Caller, Role};
use super::audit::Made;
use super::dashboard;
use super::flow::FlowSpec;
use super::guard::{Guard, admit, admit_page, admit_scraper, require};
use super::metrics::{self, Snapshot};
use super::openapi;
use super::queries::{
    AddQuery, AuditListQuery, DryRunQuery, EventsQuery, HistoryQuery, MeasureMtu, TracedQuery, in_range,
};
use super::report::{ReportQuery, report};
use super::request::{Changed, FlowFilter, Request};
use super::server::{Api, Failure, MEASUREMENT_TIMEOUT};
use super::session;
use super::tokens;
use super::views::*;
use crate::config::is_name;
use crate::engine::policy::Policy;
use crate::engine::types::{PathKey, TunnelKey};
use crate::measure::clock;

/// Everything that can be asked, and the role that it takes.
pub(super) fn endpoints() -> Vec<(Role, UtoipaMethodRouter<Api>)> {
    use Role::{Admin, Operator, Viewer};
    vec![
        (Viewer, routes!(metrics_page)),
        (Viewer, routes!(schema)),
        (Viewer, routes!(status)),
        (Viewer, routes!(sites)),
        (Viewer, routes!(paths)),
        (Viewer, routes!(flows)),
        (Viewer, routes!(policies)),
        (Operator, routes!(add_policies)),
        (Viewer, routes!(test_policy)),
        (Viewer, routes!(dry_run)),
        (Operator, routes!(remove_policy)),
        (Viewer, routes!(events)),
        (Viewer, routes!(report_of)),
        (Viewer, routes!(history)),
        (Viewer, routes!(explain)),
        (Operator, routes!(trace)),
        (Operator, routes!(traced, end_trace)),
        (Operator, routes!(measure_mtu)),
        (Operator, routes!(measure_capacity)),
        (Viewer, routes!(capacity_run)),
        (Admin, routes!(list_tokens)),
        (Admin, routes!(add_token)),
        (Admin, routes!(remove_token)),
        (Admin, routes!(audit)),
        (Viewer, routes!(session::session, session::log_in, session::log_out)),
        (Admin, routes!(session::make_code)),
        (Admin, routes!(down)),
        (Admin, routes!(reload)),
    ]
}

/// The whole API. Over TCP, requests must be meant for an address or for one of `names`. `pages`: with the dashboard.
pub(super) fn router(api: Api, names: BTreeSet<String>, pages: bool) -> Router {
    let guard = Arc::new(Guard::new(&api, names));
    let mut router = OpenApiRouter::new();
    for (role, (schemas, paths, methods)) in endpoints() {
        let methods: axum::routing::MethodRouter<Api> =
            methods.layer(from_fn_with_state((role, api.refusals.clone()), require));
        router = router.routes((schemas, paths, methods));
    }
    let router = Router::from(router)
        .fallback(|| async { Failure::not_found("there is no such path in version 1 of the API") })
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path of the API doesn't take this method")
        })
        .layer(from_fn_with_state(guard.clone(), admit))
        .with_state(api);
    match pages {
        true => router.merge(dashboard::pages().layer(from_fn_with_state(guard, admit_page))),
        false => router,
    }
}

/// Metrics alone, for a port without a login.
pub(super) fn metrics_router(api: Api) -> Router {
    let guard = Guard::new(&api, BTreeSet::new());
    Router::new()
        .route("/metrics", axum::routing::get(metrics_page))
        .fallback(|| async { Failure::not_found("there is only /metrics here") })
        .layer(from_fn_with_state(Arc::new(guard), admit_scraper))
        .with_state(api)
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query.map(|Query(value)| value).map_err(|rejection| Failure::wrong(rejection.body_text()))
}

/// The number in a URL's path.
fn number<T>(id: Result<UrlPath<T>, PathRejection>) -> Result<T, Failure> {
    id.map(|UrlPath(id)| id).map_err(|rejection| Failure::wrong(rejection.body_text()))
}

fn listing<T: Serialize>(items: Vec<T>) -> Json<Listing<T>> {
    Json(Listing::complete(items))
}

impl Api {
    async fn status(&self) -> Result<StatusView, Failure> {
        let status = *self.ask(Request::Status).await?;
        Ok(StatusView { api_refused: self.refusals.snapshot(), ..status })
    }
}

/// Metrics for Prometheus.
///
/// What is asked in turn is of about the same moment.
#[utoipa::path(get, path = "/metrics", tag = "gateway",
    responses((status = OK, description = "OpenMetrics text", body = String, content_type = "text/plain")))]
async fn metrics_page(State(api): State<Api>) -> Result<Response, Failure> {
    let snapshot = Snapshot {
        status: api.status().await?,
        sites: api.ask(Request::Sites).await?,
        paths: api.ask(Request::Paths).await?,
        policies: api.ask(Request::Policies).await?,
    };
    let page = metrics::page(snapshot).map_err(Failure::failed)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response())
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "gateway",
    responses((status = OK, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn schema() -> Response {
    ([(CONTENT_TYPE, "application/json")], openapi::text()).into_response()
}

/// How the gateway does.
#[utoipa::path(get, path = "/v1/status", tag = "gateway", responses((status = OK, description = "Its state", body = StatusView)))]
async fn status(State(api): State<Api>) -> Result<Json<StatusView>, Failure> {
    api.status().await.map(Json)
}

/// The remote sites.
#[utoipa::path(get, path = "/v1/sites", tag = "mesh", responses((status = OK, description = "All sites", body = Listing<SiteView>)))]
async fn sites(State(api): State<Api>) -> Result<Json<Listing<SiteView>>, Failure> {
    Ok(listing(api.ask(Request::Sites).await?))
}

/// The paths, and how they do.
#[utoipa::path(get, path = "/v1/paths", tag = "mesh", responses((status = OK, description = "All paths", body = Listing<PathView>)))]
async fn paths(State(api): State<Api>) -> Result<Json<Listing<PathView>>, Failure> {
    Ok(listing(api.ask(Request::Paths).await?))
}

/// Flows, and the paths that they stick to.
#[utoipa::path(get, path = "/v1/flows", tag = "steering", params(FlowFilter),
    responses((status = OK, description = "Some of the flows", body = Listing<FlowView>)))]
async fn flows(
    State(api): State<Api>,
    filter: Result<Query<FlowFilter>, QueryRejection>,
) -> Result<Json<Listing<FlowView>>, Failure> {
    let filter = query(filter)?;
    in_range("limit", filter.limit, FlowFilter::MAX_LIMIT).map_err(Failure::wrong)?;
    let limit = filter.limit;
    let flows = api.ask(|reply| Request::Flows(filter, reply)).await?;
    Ok(Json(Listing::limited(flows, limit)))
}

/// The policies that apply, in their order.
#[utoipa::path(get, path = "/v1/policies", tag = "steering",
    responses((status = OK, description = "All policies", body = Listing<PolicyView>)))]
async fn policies(State(api): State<Api>) -> Result<Json<Listing<PolicyView>>, Failure> {
    Ok(listing(api.ask(Request::Policies).await?))
}

/// Add policies, all or none.
#[utoipa::path(post, path = "/v1/policies", tag = "steering", params(AddQuery), request_body = Vec<Policy>,
    responses((status = CREATED, description = "They apply", body = DoneView)))]
async fn add_policies(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    options: Result<Query<AddQuery>, QueryRejection>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<DoneView>), Failure> {
    let replace = query(options)?.replace;
    let policies: Vec<Policy> = api.json(request).await?;
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    let (names, wanted) = (names.join(", "), serde_json::to_value(&policies).map_err(Failure::failed)?);
    let core = api.clone();
    let work = async move { core.ask(|reply| Request::AddPolicies { policies, replace, reply }).await.map(made) };
    let done = api.change(caller, "policies-add", names, wanted, work).await?;
    Ok((StatusCode::CREATED, Json(done)))
}

/// Remove a stored policy.
#[utoipa::path(delete, path = "/v1/policies/{name}", tag = "steering", params(("name" = String, Path, description = "Its name")),
    responses((status = OK, description = "It is gone", body = DoneView)))]
async fn remove_policy(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<DoneView>, Failure> {
    let (core, target) = (api.clone(), name.clone());
    let work = async move { core.ask(|reply| Request::RemovePolicy(name, reply)).await.map(made) };
    api.change(caller, "policies-remove", target, serde_json::Value::Null, work).await.map(Json)
}

async fn flow(api: &Api, request: HttpRequest) -> Result<FlowSpec, Failure> {
    let flow = api.json(request).await?;
    checked(&flow)?;
    Ok(flow)
}

fn checked(flow: &FlowSpec) -> Result<(), Failure> {
    flow.check().map_err(|error| Failure::wrong(error.to_string()))
}

/// Which policy a flow matches.
#[utoipa::path(post, path = "/v1/policies/test", tag = "steering", request_body = FlowSpec,
    responses((status = OK, description = "What the classifier says", body = PolicyTestView)))]
async fn test_policy(State(api): State<Api>, request: HttpRequest) -> Result<Json<PolicyTestView>, Failure> {
    let flow = flow(&api, request).await?;
    Ok(Json(api.ask(|reply| Request::TestPolicy(flow, reply)).await?))
}

/// Which of the present flows a change of the policies would move: policies that are added, or one that is removed.
#[utoipa::path(post, path = "/v1/policies/dry-run", tag = "steering", params(DryRunQuery), request_body = Vec<Policy>,
    responses((status = OK, description = "What would change; nothing did", body = DryRunView)))]
async fn dry_run(
    State(api): State<Api>,
    options: Result<Query<DryRunQuery>, QueryRejection>,
    request: HttpRequest,
) -> Result<Json<DryRunView>, Failure> {
    let options = query(options)?;
    in_range("limit", options.limit, DryRunQuery::MAX_LIMIT).map_err(Failure::wrong)?;
    let policies: Vec<Policy> = api.json(request).await?;
    if options.remove.is_some() && !policies.is_empty() {
        return Err(Failure::wrong("policies to add and one to remove are two changes: try one after the other"));
    }
    let view = api.ask(|reply| Request::DryRun { policies, query: options, reply }).await?;
    Ok(Json(*view))
}

/// Which path a flow takes, and why.
#[utoipa::path(post, path = "/v1/explain", tag = "steering", request_body = FlowSpec,
    responses((status = OK, description = "What the kernel would do", body = ExplainView)))]
async fn explain(State(api): State<Api>, request: HttpRequest) -> Result<Json<ExplainView>, Failure> {
    let flow = flow(&api, request).await?;
    Ok(Json(*api.ask(|reply| Request::Explain(flow, reply)).await?))
}

/// Have the packets of a flow told of from now on, until nobody asks for some seconds.
#[utoipa::path(post, path = "/v1/trace", tag = "steering", request_body = TraceOrder,
    responses((status = CREATED, description = "It has begun", body = TraceView)))]
async fn trace(State(api): State<Api>, request: HttpRequest) -> Result<(StatusCode, Json<TraceView>), Failure> {
    let order: TraceOrder = api.json(request).await?;
    checked(&order.flow)?;
    in_range("per_second", order.per_second, TraceOrder::MOST_PER_SECOND).map_err(Failure::wrong)?;
    Ok((StatusCode::CREATED, Json(api.ask(|reply| Request::Trace(order, reply)).await?)))
}

/// What was told since a packet.
#[utoipa::path(get, path = "/v1/trace/{id}", tag = "steering", params(("id" = u32, Path), TracedQuery),
    responses((status = OK, description = "Packets in their order", body = TraceView)))]
async fn traced(
    State(api): State<Api>,
    id: Result<UrlPath<u32>, PathRejection>,
    options: Result<Query<TracedQuery>, QueryRejection>,
) -> Result<Json<TraceView>, Failure> {
    let (id, after) = (number(id)?, query(options)?.after);
    Ok(Json(api.ask(|reply| Request::Traced(id, after, reply)).await?))
}

/// Tell no more.
#[utoipa::path(delete, path = "/v1/trace/{id}", tag = "steering", params(("id" = u32, Path)),
    responses((status = OK, description = "It has ended", body = DoneView)))]
async fn end_trace(State(api): State<Api>, id: Result<UrlPath<u32>, PathRejection>) -> Result<Json<DoneView>, Failure> {
    let id = number(id)?;
    Ok(Json(api.ask(|reply| Request::EndTrace(id, reply)).await?))
}

/// Search the MTU of a path now.
#[utoipa::path(post, path = "/v1/measure/mtu", tag = "measurement", request_body = MeasureMtu,
    responses((status = OK, description = "What was found", body = MtuView)))]
async fn measure_mtu(State(api): State<Api>, request: HttpRequest) -> Result<Json<MtuView>, Failure> {
    let MeasureMtu { path } = api.json(request).await?;
    let view = api.ask_within(MEASUREMENT_TIMEOUT, |reply| Request::MeasureMtu(path, reply)).await?;
    Ok(Json(*view))
}

/// Have the capacity of a path measured.
#[utoipa::path(post, path = "/v1/capacity", tag = "measurement", request_body = CapacityOrder,
    responses((status = ACCEPTED, description = "It has begun", body = CapacityRunView)))]
async fn measure_capacity(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<CapacityRunView>), Failure> {
    let order: CapacityOrder = api.json(request).await?;
    let wanted = serde_json::to_value(&order).map_err(Failure::failed)?;
    let (core, target, after) = (api.clone(), order.path.clone(), wanted.clone());
    let work = async move {
        let run = core.ask(|reply| Request::MeasureCapacity(order, reply)).await?;
        let message = format!("a measurement of the capacity of {} has begun", run.path);
        Ok(Made { answer: run, before: serde_json::Value::Null, after, message })
    };
    let run = api.change(caller, "measure-capacity", target, wanted, work).await?;
    Ok((StatusCode::ACCEPTED, Json(run)))
}

/// How a measurement that was ordered is.
#[utoipa::path(get, path = "/v1/capacity/{id}", tag = "measurement", params(("id" = u64, Path, description = "Its number")),
    responses((status = OK, description = "How it is", body = CapacityRunView)))]
async fn capacity_run(
    State(api): State<Api>,
    id: Result<UrlPath<u64>, PathRejection>,
) -> Result<Json<CapacityRunView>, Failure> {
    let id = number(id)?;
    Ok(Json(api.ask(|reply| Request::CapacityRun(id, reply)).await?))
}

/// What happened.
#[utoipa::path(get, path = "/v1/events", tag = "history", params(EventsQuery),
    responses((status = OK, description = "Events in their order", body = Listing<EventView>)))]
async fn events(
    State(api): State<Api>,
    options: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Listing<EventView>>, Failure> {
    let options = query(options)?;
    let question = options.to_store().map_err(Failure::wrong)?;
    let events = api.stored(move |store| store.events(&question)).await?;
    Ok(Json(options.listing(events)))
}

/// What paths, providers and classes did.
#[utoipa::path(get, path = "/v1/report", tag = "history", params(ReportQuery),
    responses((status = OK, description = "Availability, quality, compliance and failovers of a span", body = ReportView)))]
async fn report_of(
    State(api): State<Api>,
    options: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Json<ReportView>, Failure> {
    let span = query(options)?.span().map_err(Failure::wrong)?;
    let site_name = Some(api.ask(Request::Status).await?.site_name);
    let view = api.stored(move |store| store.read(|reader| report(reader, span))).await?;
    Ok(Json(ReportView { site_name, ..view }))
}

/// How a path did over a span of time.
#[utoipa::path(get, path = "/v1/history", tag = "history", params(HistoryQuery),
    responses((status = OK, description = "Quality, traffic and capacity, step by step", body = HistoryView)))]
async fn history(
    State(api): State<Api>,
    options: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<HistoryView>, Failure> {
    let options = query(options)?;
    options.check().map_err(Failure::wrong)?;
    let HistoryQuery { site, local, remote, since, until, points } = options;
    let path = PathKey { site, tunnel: TunnelKey { local, remote } };
    let series = api.stored(move |store| store.read(|reader| reader.path_series(&path, since, until, points))).await?;
    Ok(Json(HistoryView::new(site, path.tunnel, &series)))
}

/// Who changed what.
#[utoipa::path(get, path = "/v1/audit", tag = "access", params(AuditListQuery),
    responses((status = OK, description = "Changes in their order", body = Listing<AuditView>)))]
async fn audit(
    State(api): State<Api>,
    options: Result<Query<AuditListQuery>, QueryRejection>,
) -> Result<Json<Listing<AuditView>>, Failure> {
    let options = query(options)?;
    let question = options.to_store().map_err(Failure::wrong)?;
    let entries = api
        .stored(move |store| {
            // What was changed a moment ago is to be in it; a disk that takes nothing keeps nobody from reading.
            let _ = store.flush();
            store.audit(&question)
        })
        .await?;
    Ok(Json(options.listing(entries)))
}

/// The tokens of viewers.
#[utoipa::path(get, path = "/v1/tokens", tag = "access", responses((status = OK, description = "All tokens", body = Listing<TokenView>)))]
async fn list_tokens(State(api): State<Api>) -> Result<Json<Listing<TokenView>>, Failure> {
    let tokens = api.stored(|store| store.tokens()).await?;
    let view = |token: crate::store::TokenRecord| TokenView {
        name: token.name,
        created_unix_s: token.created_unix_s,
        expires_unix_s: token.expires_unix_s,
    };
    Ok(listing(tokens.into_iter().map(view).collect()))
}

/// Make a token for a viewer.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", request_body = TokenOrder,
    responses((status = CREATED, description = "The token, shown this once", body = TokenMadeView)))]
async fn add_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<TokenMadeView>), Failure> {
    let TokenOrder { name, valid_s } = api.json(request).await?;
    if !is_name(&name) {
        let text = format!("{name:?} can't be the name of a token: use 1 to 32 of the characters a-z, 0-9 and -");
        return Err(Failure::wrong(text));
    }
    let now = clock::unix_s();
    let expires = valid_s.map(|seconds| now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)));
    let wanted = serde_json::json!({ "name": name, "expires_unix_s": expires });
    let (owner, target, after) = (api.clone(), name.clone(), wanted.clone());
    let work = async move {
        let (token, hash) = tokens::make();
        let (known, stored) = (owner.tokens.clone(), name.clone());
        owner
            .stored(move |store| {
                store.save_token(&stored, hash, expires)?;
                known.reload(store)
            })
            .await?;
        let message = format!("token {name} was made");
        let answer = TokenMadeView::new(name, token, expires);
        Ok(Made { answer, before: serde_json::Value::Null, after, message })
    };
    let made = api.change(caller, "token-add", target, wanted, work).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Remove a token.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "access", params(("name" = String, Path, description = "Its name")),
    responses((status = OK, description = "It is of no use any more", body = DoneView)))]
async fn remove_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<DoneView>, Failure> {
    let (owner, target) = (api.clone(), name.clone());
    let work = async move {
        let (known, stored) = (owner.tokens.clone(), name.clone());
        let removed = owner
            .stored(move |store| {
                let removed = store.remove_token(&stored)?;
                known.reload(store)?;
                Ok(removed)
            })
            .await?;
        if !removed {
            return Err(Failure::not_found(&format!("there is no token {name:?}: `sdwan token list` lists them")));
        }
        let (message, before) = (format!("token {name} was removed"), serde_json::json!({ "name": name }));
        Ok(Made { answer: DoneView::new(message.clone()), before, after: serde_json::Value::Null, message })
    };
    api.change(caller, "token-remove", target, serde_json::Value::Null, work).await.map(Json)
}

/// Remove tunnels, routes, rules, programs and maps, and stop the daemon.
#[utoipa::path(post, path = "/v1/down", tag = "gateway", responses((status = OK, description = "It is done", body = DoneView)))]
async fn down(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<DoneView>, Failure> {
    let core = api.clone();
    let work = async move { core.ask(Request::Down).await.map(|done| made(Changed::new(done))) };
    api.change(caller, "down", String::new(), serde_json::Value::Null, work).await.map(Json)
}

/// Check what is on disk, then start anew with it while traffic goes on.
#[utoipa::path(post, path = "/v1/reload", tag = "gateway", responses((status = OK, description = "It is about to", body = DoneView)))]
async fn reload(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<DoneView>, Failure> {
    let core = api.clone();
    let work = async move { core.ask(Request::Reload).await.map(made) };
    api.change(caller, "reload", String::new(), serde_json::Value::Null, work).await.map(Json)
}

fn made(changed: Changed) -> Made<DoneView> {
    let Changed { done, before, after } = changed;
    Made { message: done.message.clone(), answer: done, before, after }
}
