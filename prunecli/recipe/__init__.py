"""Recipes: YAML with addresses in, validated frozen values out."""
