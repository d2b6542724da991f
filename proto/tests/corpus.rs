//! Goal: the fuzz targets hold for what is known already. Method: their functions run over every
//! recorded message and the committed corpus.
