"""Raw data sets as one study table, packed films, words of reports, and batches of both."""
