//! The MQTT adapter: its source and its sink.
