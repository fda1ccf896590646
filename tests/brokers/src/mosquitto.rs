//! Mosquitto.
