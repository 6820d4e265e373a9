//! Traces, logs and metrics: W3C traceparent in and out, OTLP to a collector, Prometheus text on the admin port.

use std::{io::IsTerminal, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::{Span, level_filters::LevelFilter, subscriber::Interest};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::Config;

/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Latency buckets in seconds, 0.5 ms to 30 s.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Spans that wait for the exporter; more are dropped, never waited for.
const QUEUE: usize = 16_384;

/// Keeps telemetry alive; flushes when shut down.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    prometheus: PrometheusHandle,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("TENON_LOG is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("OTLP exporter for {endpoint} cannot be made: {why}")]
    Exporter { endpoint: String, why: String },
    #[error("telemetry was started twice: {0}")]
    Twice(String),
}

/// Whether the current span goes to a collector.
#[must_use]
pub fn is_sampled() -> bool {
    Span::current().context().span().span_context().is_sampled()
}

/// Starts logs, metrics and, when an endpoint is configured, traces; once a process, inside its runtime.
///
/// # Errors
/// When a setting cannot be used.
pub fn init(config: &Config, name: &'static str) -> Result<Telemetry, InitError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let is_terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false);
    let logs: Box<dyn Layer<Registry> + Send + Sync> = if config.log_format == "json" {
        logs.json().flatten_event(true).with_filter(NoSpans(filter)).boxed()
    } else {
        logs.with_filter(NoSpans(filter)).boxed()
    };
    let provider = config.otlp_endpoint.as_deref().map(|endpoint| provider(endpoint, config.trace_ratio, name));
    let provider = provider.transpose()?;
    let traces = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tenon"));
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
        let spans = Targets::new().with_target("tenon", tracing::Level::INFO).with_default(tracing::Level::WARN);
        layer.with_filter(spans.with_targets(TRACED.map(|target| (target, tracing::Level::INFO))))
    });
    let twice = |error: &dyn std::fmt::Display| InitError::Twice(error.to_string());
    tracing_subscriber::registry().with(logs).with(traces).try_init().map_err(|error| twice(&error))?;
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| twice(&error))?;
    Ok(Telemetry { provider, prometheus })
}

/// Crates whose spans are exported.
const TRACED: [&str; 6] =
    ["tenon_chassis", "tenon_gateway", "tenon_auth", "tenon_tenant", "tenon_billing", "tenon_workflow"];

/// Logs take events, and who asks whether one would be taken: spans are for traces, and cost nothing where there are none.
struct NoSpans(EnvFilter);

impl<S> tracing_subscriber::layer::Filter<S> for NoSpans
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn enabled(&self, metadata: &tracing::Metadata<'_>, context: &tracing_subscriber::layer::Context<'_, S>) -> bool {
        !metadata.is_span() && tracing_subscriber::layer::Filter::enabled(&self.0, metadata, context)
    }

    // Decided once a place in the code, and by level before that: libraries speak at TRACE with every frame and poll.
    fn callsite_enabled(&self, metadata: &'static tracing::Metadata<'static>) -> Interest {
        if metadata.is_span() {
            return Interest::never();
        }
        tracing_subscriber::layer::Filter::<S>::callsite_enabled(&self.0, metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        tracing_subscriber::layer::Filter::<S>::max_level_hint(&self.0)
    }
}

fn provider(endpoint: &str, ratio: f64, name: &'static str) -> Result<SdkTracerProvider, InitError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    let exporter = exporter.with_timeout(Duration::from_secs(5)).build();
    let failed =
        |why: &dyn std::fmt::Display| InitError::Exporter { endpoint: endpoint.to_owned(), why: why.to_string() };
    let exporter = exporter.map_err(|why| failed(&why))?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_scheduled_delay(Duration::from_millis(500))
        .build();
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(resource)
        .build())
}

impl Telemetry {
    /// The metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.prometheus.render()
    }

    /// What renders the metrics, for the admin port.
    #[must_use]
    pub fn metrics(&self) -> PrometheusHandle {
        self.prometheus.clone()
    }

    /// Sends what is left, for at most a few seconds.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider {
            let _ = provider.shutdown_with_timeout(Duration::from_secs(3));
        }
    }
}

/// The current span as a W3C traceparent; `None` outside any trace.
#[must_use]
pub fn traceparent() -> Option<String> {
    of_span(&Span::current())
}

fn of_span(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    let flags = u8::from(context.is_sampled());
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

/// Makes a span a child of a remote one; a malformed traceparent is ignored, as the specification asks.
pub fn set_parent(span: &Span, traceparent: &str) {
    if let Some(context) = parse(traceparent) {
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
}

/// A span that no trace keeps: polling, which is done for nobody in particular, would bury what is.
#[must_use]
pub fn quiet() -> Span {
    let span = tracing::info_span!("quiet");
    // The parent is not sampled, and so what is below it is not.
    set_parent(&span, "00-00000000000000000000000000000001-0000000000000001-00");
    span
}

/// As `set_parent`, from a request's headers.
pub fn extract(span: &Span, headers: &HeaderMap) {
    if let Some(parent) = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()) {
        set_parent(span, parent);
    }
}

/// Writes the current span to a request's headers.
pub fn inject(headers: &mut HeaderMap) {
    if let Some(parent) = traceparent().and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(TRACEPARENT, parent);
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let sizes = (version.len(), trace.len(), span.len(), flags.len());
    if sizes != (2, 32, 16, 2) || version == "ff" || ![version, trace, span, flags].into_iter().all(lower_hex) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_traceparent_is_a_parent() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(parse(good).is_some_and(|context| context.is_sampled() && context.is_remote()));
        assert!(parse(&good.to_uppercase()).is_none());
        assert!(parse("00-00000000000000000000000000000000-b7ad6b7169203331-01").is_none());
        assert!(parse("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is_none());
        assert!(parse("nonsense").is_none());
    }
}
