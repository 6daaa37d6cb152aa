"""Pages of docs/ that are made from the code, and checks of those written by hand: python -m tools.docs"""
