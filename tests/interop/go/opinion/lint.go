package main

import (
	"encoding/hex"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// Rules of the public web's CAs and of browsers' root programs: a mesh CA is none of theirs. Everything else runs.
var excluded = lint.SourceList{lint.CABFBaselineRequirements, lint.CABFCSBaselineRequirements, lint.CABFSMIMEBaselineRequirements,
	lint.CABFEVGuidelines, lint.MozillaRootStorePolicy, lint.AppleRootStorePolicy, lint.ChromeRootStorePolicy, lint.EtsiEsi,
	lint.RFC6962}

type linter struct {
	registry lint.Registry
	ran      map[string]bool
}

func newLinter(r *report) (*linter, error) {
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{ExcludeSources: excluded})
	for _, source := range excluded {
		r.Excluded = append(r.Excluded, string(source))
	}
	return &linter{registry, map[string]bool{}}, err
}

func (l *linter) note(r *report, set *zlint.ResultSet, der []byte) {
	for name, result := range set.Results {
		if result.Status == lint.NA || result.Status == lint.NE {
			continue
		}
		if !l.ran[name] {
			l.ran[name] = true
			r.Ran++
		}
		if result.Status == lint.Pass {
			continue
		}
		f := r.Lints[name]
		f.Status, f.Source, f.Description = result.Status.String(), string(result.LintMetadata.Source), result.LintMetadata.Description
		if f.Count++; f.Example == "" {
			f.Example = hex.EncodeToString(der)
		}
		r.Lints[name] = f
	}
}

func (l *linter) certificate(r *report, der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	l.note(r, zlint.LintCertificateEx(c, l.registry), der)
	return nil
}

func (l *linter) crl(r *report, der []byte) error {
	c, err := x509.ParseRevocationList(der)
	if err != nil {
		return err
	}
	l.note(r, zlint.LintRevocationListEx(c, l.registry), der)
	return nil
}
