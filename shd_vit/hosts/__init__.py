"""Where shd_vit is at home: a package for each library that trains."""
