"""Cases checked before they are used."""
