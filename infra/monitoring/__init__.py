"""Metrics on a screen, and alerts: a Grafana dashboard and Prometheus rules."""
