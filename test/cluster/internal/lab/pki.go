// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"time"
)

// authority signs the certificates of one lab.
type authority struct {
	lab  *Lab
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// certificates makes the lab's CA, all certificates and kubeconfigs.
func (l *Lab) certificates() error {
	if err := os.MkdirAll(l.path("pki"), 0o700); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	ca, err := newAuthority(l)
	if err != nil {
		return err
	}
	if err := ca.issueServer(); err != nil {
		return err
	}
	clients := map[string]pkix.Name{
		"admin":                   {CommonName: "admin", Organization: []string{"system:masters"}},
		"front-proxy-client":      {CommonName: "front-proxy-client"},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
	}
	for _, m := range l.Machines {
		clients[m.Name] = pkix.Name{CommonName: "system:node:" + m.Name, Organization: []string{"system:nodes"}}
	}
	for name, subject := range clients {
		if err := ca.issueClient(name, subject); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	_, err = l.writeKey("sa", key)
	return err
}

func newAuthority(l *Lab) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	cert := template(pkix.Name{CommonName: l.Name + "-ca"})
	cert.IsCA, cert.BasicConstraintsValid = true, true
	cert.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	ca := &authority{lab: l, cert: cert, key: key}
	if ca.pem, err = ca.issue("ca", cert, key); err != nil {
		return nil, err
	}
	_, err = l.writeKey("ca", key)
	return ca, err
}

func template(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

// issue signs cert for key and writes it as pki/NAME.crt.
func (ca *authority) issue(name string, cert *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return data, ca.lab.write(string(data), "pki", name+".crt")
}

func (l *Lab) writeKey(name string, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return data, l.write(string(data), "pki", name+".key")
}

func (ca *authority) issueServer() error {
	cert := template(pkix.Name{CommonName: "kube-apiserver"})
	service := "kubernetes.default.svc"
	cert.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", service, service + "." + clusterDomain}
	cp := ca.lab.controlPlane().Internal
	for _, ip := range []string{"127.0.0.1", apiService4, apiService6, cp.V4.Addr().String(), cp.V6.Addr().String()} {
		cert.IPAddresses = append(cert.IPAddresses, netip.MustParseAddr(ip).AsSlice())
	}
	_, _, err := ca.pair("apiserver", cert)
	return err
}

func (ca *authority) issueClient(name string, subject pkix.Name) error {
	crt, key, err := ca.pair(name, template(subject))
	if err != nil {
		return err
	}
	encode := base64.StdEncoding.EncodeToString
	return ca.lab.write(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: %[1]s, cluster: {server: "%[2]s", certificate-authority-data: %[3]s}}]
users: [{name: %[4]s, user: {client-certificate-data: %[5]s, client-key-data: %[6]s}}]
contexts: [{name: %[1]s, context: {cluster: %[1]s, user: %[4]s}}]
current-context: %[1]s
`, ca.lab.Name, ca.lab.APIServer(), encode(ca.pem), name, encode(crt), encode(key)), "pki", name+".kubeconfig")
}

func (ca *authority) pair(name string, cert *x509.Certificate) (crt, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("key %s: %w", name, err)
	}
	if crt, err = ca.issue(name, cert, private); err != nil {
		return nil, nil, err
	}
	key, err = ca.lab.writeKey(name, private)
	return crt, key, err
}

func (l *Lab) kubeconfig(name string) string { return l.path("pki", name+".kubeconfig") }
