//! The HTTP adapter: source and sink.
