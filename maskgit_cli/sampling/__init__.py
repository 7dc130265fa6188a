"""Samplers and schedules; the stages sample and inpaint."""
