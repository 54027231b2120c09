//! The document of the API (OpenAPI 3.1), made of the same list as the router.

use std::sync::OnceLock;

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, Schema};
use utoipa::{PartialSchema as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::access::Role;
use super::handlers::endpoints;
use super::views::ErrorView;

const ABOUT: &str = "\
The API of a gateway's daemon, on its Unix socket, and on TCP under TLS where `listen` in [api] says so. Each operation \
names the role that it needs (`x-role`): viewer, operator or admin. Who can connect to the Unix socket is an admin. Fields \
are added without a new version; one that goes, or changes its meaning, raises `version` in the answers, and the path's.";

/// The document.
pub fn document() -> OpenApi {
    let info = InfoBuilder::new().title("sdwan").version(env!("CARGO_PKG_VERSION")).description(Some(ABOUT)).build();
    let mut components = Components::new();
    components.add_security_scheme("certificate", SecurityScheme::MutualTls { description: None, extensions: None });
    // The cookie's name is another one for each daemon: `POST /v1/session` sets it.
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let base = OpenApiBuilder::new().info(info).components(Some(components)).build();
    let mut router = OpenApiRouter::with_openapi(base);
    for (role, (mut schemas, mut paths, methods)) in endpoints() {
        for item in paths.paths.values_mut() {
            operations(item).into_iter().for_each(|operation| finish(operation, role));
        }
        schemas.push((ErrorView::name().into_owned(), ErrorView::schema()));
        router = router.routes((schemas, paths, methods));
    }
    let mut document = router.into_openapi();
    open_parts(&mut document);
    document
}

/// What is a part of another schema, such as a policy with its counters, must let the rest of that pass.
fn open_parts(document: &mut OpenApi) {
    let Some(components) = &mut document.components else { return };
    let of_parts = |schema: &RefOr<Schema>| match schema {
        RefOr::T(Schema::AllOf(all)) => all.items.clone(),
        _ => Vec::new(),
    };
    let parts: Vec<RefOr<Schema>> = components.schemas.values().flat_map(of_parts).collect();
    for part in parts {
        let RefOr::Ref(reference) = part else { continue };
        let name = reference.ref_location.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(&name) {
            object.additional_properties = None;
        }
    }
}

/// The same as JSON.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = document().to_pretty_json().expect("every part of the document can be written as JSON");
        text.push('\n');
        text
    })
}

/// What every operation has.
fn finish(operation: &mut Operation, role: Role) {
    let error: RefOr<Schema> = Ref::from_schema_name(ErrorView::name()).into();
    let mut failed = Response::new("What is wrong, and what to do");
    failed.content.insert("application/json".into(), Content::new(Some(error)));
    operation.responses.responses.insert("default".into(), failed.into());
    operation.extensions.get_or_insert_default().insert("x-role".into(), role.name().into());
}

fn operations(item: &mut PathItem) -> Vec<&mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten().collect()
}
