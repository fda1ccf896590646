//! The AMQP adapter: its source and its sink.
