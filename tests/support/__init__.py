"""Servers, runners, builders of test data, and checks that several tests share."""
